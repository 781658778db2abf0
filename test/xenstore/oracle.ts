/** Debian's C xenstored 4.17 as an oracle, when it is installed: run on plain Linux by means of xenstored-shim.c. */
import { execFileSync, spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MessageType } from "../../host/platform/xenstore/wire.js";
import { absent } from "../support/programs.js";
import { Peer } from "./peer.js";

const XENSTORED = "/usr/lib/xen-4.17/bin/xenstored";
const SHIM_SOURCE = resolve("test/xenstore/xenstored-shim.c");

/** Why the oracle cannot run here, or false. */
export function oracleMissing(): string | false {
  return absent(XENSTORED, "gcc", "/usr/include/stdlib.h");
}

export interface Oracle {
  readonly socketPath: string;
  /** Introduces a domain and connects as it, over its ring page. */
  guest(domid: number): Promise<Peer>;
  stop(): Promise<void>;
}

/** Starts xenstored in a directory of its own. */
export async function startOracle(): Promise<Oracle> {
  const dir = mkdtempSync(join(tmpdir(), "xenstored-"));
  const shim = join(dir, "shim.so");
  execFileSync("gcc", ["-shared", "-fPIC", "-O1", "-o", shim, SHIM_SOURCE, "-ldl"]);
  const child = spawn(XENSTORED, ["-N"], {
    env: { XENSTORED_RUNDIR: dir, XENSTORED_ROOTDIR: dir, XENSTORED_SHIM_DIR: dir, LD_PRELOAD: shim },
    stdio: "ignore",
  });
  const ended = new Promise<void>((done) => child.once("exit", () => done()));
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  const stop = async () => {
    process.off("exit", kill);
    kill();
    await ended;
    rmSync(dir, { recursive: true, force: true });
  };
  const socketPath = join(dir, "socket");
  const up = async (): Promise<[Peer, number]> => [
    await whenUp(() => Peer.overSocket(socketPath)),
    // It makes this after its socket.
    await whenUp(async () => openSync(join(dir, "doorbell"), "r+")),
  ];
  const [toolstack, doorbell] = await up().catch(async (error) => {
    await stop();
    throw error;
  });
  const guest = async (domid: number) => {
    const port = 100 + domid;
    const answer = await toolstack.ask(MessageType.introduce, `${domid}\0${1}\0${port}\0`);
    if (answer !== "OK\0") throw new Error(`INTRODUCE of domain ${domid}: ${answer}`);
    const message = Buffer.alloc(4);
    message.writeUInt32LE(port);
    return Peer.overRing(join(dir, `ring-${domid}`), () => writeSync(doorbell, message));
  };
  return {
    socketPath,
    guest,
    stop: async () => {
      toolstack.close();
      closeSync(doorbell);
      await stop();
    },
  };
}

async function whenUp<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (tries === 6000) throw error;
      await sleep(10);
    }
  }
}
