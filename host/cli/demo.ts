/** `xbdback demo`: a loopback machine with one backend and one guest, and something for the guest to do. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { control } from "../daemon/control.js";
import { controlSocket } from "../daemon/serve.js";
import type { WorkloadResult } from "../guest/workload.js";
import { LoopbackHost } from "../platform/loopback/host.js";
import { openDisk } from "../storage/disk.js";
import { formatSize } from "../storage/size.js";
import { parseSource } from "../storage/source.js";
import { addVbd, removeVbd, type VbdSpec } from "../toolstack/vbd.js";
import { printable } from "../vbd/diagnostics.js";
import type { VbdStatus } from "../vbd/status.js";
import { Child, GuestChild } from "./child.js";
import { CliError, signalled } from "./errors.js";
import type { GuestEvent, GuestOptions } from "./guest.js";
import { handleInstead, untilStopped } from "./lifetime.js";
import { Progress, table } from "./output.js";

export interface DemoOptions
  extends Pick<
    GuestOptions,
    "abi" | "ringPageOrder" | "queues" | "indirect" | "persistent" | "depth" | "seed"
  > {
  image: string | undefined;
  cache: string;
  engine: string;
  reactors: number;
  pollUs: number;
  run?: string;
  size?: number;
  readOnly: boolean;
  operations: number;
  json: boolean;
}

const DOMID = 1;
/** xvda. */
const DEVID = 51712;
const GUEST_MEMORY = 256 * 1024 * 1024;
/** Its own backend comes up in half a second, and on an emulated machine in half a minute; one that fails is noticed. */
const START_MS = 120_000;
const DEFAULT_SIZE = 128 * 1024 * 1024;

/** Returns the exit status. */
export async function demo(options: DemoOptions): Promise<number> {
  // stdout is for CMD, or for the JSON object.
  const stream = options.json || options.run !== undefined ? process.stderr : process.stdout;
  const say = (line: string): void => void stream.write(`${line}\n`);
  if (options.image !== undefined && options.size !== undefined) {
    throw new CliError("--size makes a temporary image and does not go with IMAGE: leave out one of them", 2);
  }
  if (options.image !== undefined) await checkTarget(targetOf(options.image), options.readOnly);
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-demo-"));
  try {
    const image = options.image === undefined ? makeImage(scratch, options.size) : targetOf(options.image);
    return await new Demo(options, image, scratch, say).play();
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** A path may be relative to here; other targets are as in a disk specification. */
function targetOf(text: string): string {
  return parseSource(text) === null ? resolve(text) : text;
}

/** The module that a target names; that makes it allowed here. */
function modulesOf(target: string): string[] {
  const source = parseSource(target);
  return source?.kind === "device" ? [source.path] : [];
}

/** Opens and closes the disk, so that what is wrong with it is said before anything starts. */
async function checkTarget(target: string, readOnly: boolean): Promise<void> {
  const warnings: string[] = [];
  const options = {
    readOnly,
    create: false,
    modules: modulesOf(target),
    warn: (line: string) => void warnings.push(line),
  };
  const device = await openDisk(target, options).catch((error: unknown) => {
    for (const warning of warnings) process.stderr.write(`${printable(warning).replaceAll("\\n", "\n")}\n`);
    throw error;
  });
  await device.close();
}

function makeImage(directory: string, size = DEFAULT_SIZE): string {
  const path = join(directory, "disk.img");
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

class Demo {
  readonly #options: DemoOptions;
  readonly #image: string;
  readonly #scratch: string;
  readonly #say: (line: string) => void;
  readonly #spec: VbdSpec;
  readonly #stopped = untilStopped(false);
  /** Rejects when the user stops the demo. */
  readonly #interrupted = this.#stopped.then((signal) => {
    throw new CliError(`stopped by ${signal}`, signalled(signal));
  });

  constructor(options: DemoOptions, image: string, scratch: string, say: (line: string) => void) {
    this.#options = options;
    this.#image = image;
    this.#scratch = scratch;
    this.#say = say;
    const mode = options.readOnly ? "r" : "w";
    this.#spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path: image, mode, dev: "xvda" };
    this.#interrupted.catch(() => {});
  }

  async play(): Promise<number> {
    const host = await LoopbackHost.start();
    try {
      await host.createGuest(DOMID, GUEST_MEMORY);
      this.#say(`machine ${host.directory}: domain 0 with the backend, domain ${DOMID} with the guest`);
      const backend = new Child("backend", this.#backendArguments(host.directory), () => {}, this.#say);
      try {
        await Promise.race([addVbd(host.xenstore, this.#spec, START_MS), backend.failed, this.#interrupted]);
        return await this.#withDisk(host, backend);
      } finally {
        await backend.stop();
      }
    } finally {
      await host.close();
    }
  }

  async #withDisk(host: LoopbackHost, backend: Child): Promise<number> {
    const { run, image, readOnly } = this.#options;
    const works = run === undefined && image === undefined && !readOnly;
    const guest = new GuestChild(this.#guestArguments(host.directory, works));
    const alive = <T>(work: Promise<T>): Promise<T> => Promise.race([work, guest.failed, backend.failed]);
    try {
      const connected = await alive(Promise.race([guest.connected, this.#interrupted]));
      this.#say(describe(connected));
      if (works) return await alive(Promise.race([this.#workload(host, guest, alive), this.#interrupted]));
      const { uri } = await alive(Promise.race([guest.listening, this.#interrupted]));
      return run === undefined ? await this.#serve(uri, alive) : await alive(this.#run(run, uri));
    } finally {
      await this.#takeDown(host, backend, guest);
    }
  }

  /** Orderly as long as both live; a disk that has lost one side cannot be closed by the other. */
  async #takeDown(host: LoopbackHost, backend: Child, guest: Child): Promise<void> {
    if (backend.ended) guest.process.kill("SIGKILL");
    if (guest.ended) await host.destroyGuest(DOMID);
    await guest.stop();
    if (!backend.ended && (await removeVbd(host.xenstore, this.#spec)) !== "closed")
      this.#say("the backend did not close the disk in time");
  }

  #backendArguments(directory: string): string[] {
    const { cache, engine, reactors, pollUs } = this.#options;
    return [
      ...["serve", "--directory", directory, "--log-format", "plain", "--cache", cache, "--engine", engine],
      ...["--reactors", String(reactors), "--poll-us", String(pollUs)],
      ...modulesOf(this.#image).flatMap((path) => ["--device", path]),
    ];
  }

  #guestArguments(directory: string, works: boolean): string[] {
    const { abi, ringPageOrder, queues, indirect, persistent, operations, depth, seed } = this.#options;
    return [
      ...["--directory", directory, "--domid", String(DOMID), "--devid", String(DEVID)],
      ...["--abi", abi, "--ring-page-order", String(ringPageOrder), "--queues", String(queues)],
      ...(indirect ? [] : ["--no-indirect"]),
      ...(persistent ? [] : ["--no-persistent"]),
      ...(works ? ["--workload", String(operations)] : ["--nbd", join(this.#scratch, "nbd.sock")]),
      ...["--depth", String(depth), "--seed", String(seed)],
    ];
  }

  async #workload(
    host: LoopbackHost,
    guest: GuestChild,
    alive: <T>(work: Promise<T>) => Promise<T>,
  ): Promise<number> {
    const { operations, json } = this.#options;
    const progress = new Progress("operations", operations, json ? process.stderr : process.stdout);
    guest.onProgress = (done) => progress.show(done);
    guest.failed.catch(() => progress.end());
    const { result, sha256 } = await alive(guest.verified);
    progress.show(operations);
    progress.end();
    const { grantsInUse } = await alive(guest.closed);
    await guest.expectEnd();
    const socket = controlSocket({ kind: "loopback", directory: host.directory, domid: 0 }, "vbd");
    const { vbds } = await control<{ vbds: VbdStatus[] }>(socket, { command: "list" });
    if (grantsInUse !== 0) throw new CliError(`the backend kept ${grantsInUse} grants of the guest`);
    if ((await hashFile(this.#image)) !== sha256)
      throw new CliError("the image is not what the guest reads from it");
    this.#report(vbds[0], result, sha256);
    return 0;
  }

  #report(vbd: VbdStatus, result: WorkloadResult, sha256: string): void {
    const { counters } = vbd;
    const figures = {
      requests: counters.responses,
      segments: counters.segments,
      ios: counters.ios,
      notifications: counters.notifications,
      iops: Math.round(result.operations / result.seconds),
      mebibytesPerSecond: Math.round((result.bytesRead + result.bytesWritten) / result.seconds / 2 ** 20),
    };
    if (this.#options.json) {
      const report = { verified: true, device: vbd.name, sha256, ...figures, workload: result, counters };
      process.stdout.write(`${JSON.stringify(report)}\n`);
      return;
    }
    this.#say("");
    const { reads, writes, flushes, discards } = result;
    this.#say(
      `${reads} reads, ${writes} writes, ${flushes} flushes, ${discards} discards, then the whole disk read:`,
    );
    this.#say(
      table([
        ["requests", figures.requests],
        ["segments", figures.segments],
        ["I/Os after coalescing", figures.ios],
        ["notifications", figures.notifications],
        ["IOPS", figures.iops],
        ["MiB/s", figures.mebibytesPerSecond],
      ]),
    );
    this.#say(
      "data verified: every sector read is the one last written, and the image file has the same SHA-256",
    );
  }

  async #serve(uri: string, alive: <T>(work: Promise<T>) => Promise<T>): Promise<number> {
    if (this.#options.json) process.stdout.write(`${JSON.stringify({ uri, image: this.#image })}\n`);
    else this.#say(`the guest's disk is at ${uri}\nCtrl-C ends it`);
    await alive(this.#stopped);
    return 0;
  }

  /** Runs CMD as nbdkit's captive mode does; resolves with its status. */
  #run(shellCommand: string, uri: string): Promise<number> {
    const { json } = this.#options;
    const start = performance.now();
    // Ctrl-C is for CMD, as often as it likes; we end when it has.
    handleInstead("SIGINT", () => {});
    handleInstead("SIGTERM", () => child.kill("SIGTERM"));
    const child = spawn("/bin/sh", ["-c", shellCommand], {
      stdio: ["inherit", json ? 2 : "inherit", "inherit"],
      env: { ...process.env, uri, nbd: uri },
    });
    return new Promise((settle, reject) => {
      child.on("error", reject);
      child.on("close", (code, signal) => {
        const status = signal ? signalled(signal) : (code ?? 1);
        const seconds = (performance.now() - start) / 1000;
        if (json) process.stdout.write(`${JSON.stringify({ uri, image: this.#image, status, seconds })}\n`);
        settle(status);
      });
    });
  }
}

function describe(connected: Extract<GuestEvent, { event: "connected" }>): string {
  const { size, queues, ringEntries, indirect, persistent } = connected;
  const rings = queues === 1 ? `a ring of ${ringEntries}` : `${queues} rings of ${ringEntries}`;
  const segments = indirect > 0 ? `up to ${indirect} segments indirect` : "11 segments";
  const grants = persistent ? "persistent grants" : "a grant for each page";
  return `guest: xvda, ${formatSize(size)}; ${rings} requests, ${segments}, ${grants}`;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
