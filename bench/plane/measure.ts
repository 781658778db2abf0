/** Measures rows: the contestants in turn, several times each, on the same file. */
import { closeSync, createReadStream, fsyncSync, openSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { type Backing, startBacking } from "./backing.js";
import { FioNbd, FioRbd, FioUring } from "./fio.js";
import { Observed } from "./observed.js";
import { NbdServer } from "./peers.js";
import { pin } from "./processes.js";
import { type NbdPeer, type Row, sameSetup } from "./rows.js";
import { type Contestant, PINNED_CPU, type Sample } from "./sample.js";
import { countSyscalls, type Tool } from "./syscalls.js";
import { Vhost } from "./vhost.js";
import { Machine, Xbdback } from "./xbdback.js";

export interface Plan {
  readonly file: string;
  readonly scratch: string;
  readonly seconds: number;
  readonly repeats: number;
  /** Programs that are not installed, and what to say of it. */
  readonly missing: ReadonlyMap<string, string>;
  readonly syscallTool: Tool | null;
  readonly serveOptions: readonly string[];
  readonly say: (line: string) => void;
}

export interface SyscallsPerRequest {
  readonly backend: number;
  /** io_uring_enter(2) alone. */
  readonly backendEnters: number;
  readonly guest: number;
}

export interface RowSamples {
  readonly row: Row;
  /** By contestant, one a repeat. */
  readonly samples: ReadonlyMap<string, readonly Sample[]>;
  readonly syscalls: SyscallsPerRequest | null;
  /** Contestants that are not there, and why. */
  readonly left: Readonly<Record<string, string>>;
}

const GUEST_MEMORY = 512 << 20;
/** So that a request of 1 MiB never waits for the guest's memory. */
const IN_FLIGHT = 64 << 20;
const RING_PAGE_ORDER = 2;
const DOMID = 1;
/** V8 compiles what runs often, and rings map the guest's pages: that takes its time once for new processes. */
const WARM_UP_SECONDS = 2;
const WARM_UP_DEPTH = 32;

/** Rows that could not be measured. */
export interface Failure {
  readonly rows: readonly string[];
  readonly reason: string;
}

/** `each` hears of every row as soon as it is measured. What fails fails for the rest of its set-up only. */
export async function measureRows(
  rows: readonly Row[],
  plan: Plan,
  each: (row: RowSamples) => void,
): Promise<Failure[]> {
  const failures: Failure[] = [];
  for (let first = 0, next = 0; first < rows.length; first = next) {
    while (next < rows.length && sameSetup(rows[first], rows[next])) next++;
    const left = rows.slice(first, next).map(({ name }) => name);
    try {
      await measureSetup(rows.slice(first, next), plan, (samples) => {
        left.shift();
        each(samples);
      });
    } catch (error) {
      failures.push({ rows: left, reason: (error as Error).message });
    }
  }
  return failures;
}

/** Rows of one set-up, on the same processes. */
async function measureSetup(
  rows: readonly Row[],
  plan: Plan,
  each: (row: RowSamples) => void,
): Promise<void> {
  const [setup] = rows;
  const { file, scratch, missing } = plan;
  if (setup.cache === "writeback") await preload(file);
  // What was started last is stopped first.
  const stops: (() => Promise<void>)[] = [];
  try {
    const backing = await startBacking(setup, file, scratch, missing);
    stops.unshift(() => backing.stop());
    const polling = setup.pollUs > 0 ? ["--poll-us", String(setup.pollUs)] : [];
    const machine = await Machine.start(setup.cache, [...plan.serveOptions, ...polling]);
    stops.unshift(() => machine.stop());
    await machine.createGuest(DOMID, GUEST_MEMORY);
    await machine.attach(DOMID, backing.target, {
      queues: setup.queues,
      persistent: setup.persistent,
      ringPageOrder: RING_PAGE_ORDER,
      inFlightBytes: Math.floor(IN_FLIGHT / setup.queues),
    });
    const xbdback = new Xbdback(machine, backing.pid ?? (await machine.helperPid(DOMID)));
    if (setup.apart) xbdback.keepApart();
    await xbdback.run({ ...setup, depth: WARM_UP_DEPTH, pinned: false }, WARM_UP_SECONDS);
    const servers = new Map<string, NbdServer>();
    const serverOf = async (peer: NbdPeer): Promise<NbdServer> => {
      let server = servers.get(peer);
      if (server) return server;
      server = await NbdServer.start(peer, setup, backing.peer, join(scratch, `${peer}.sock`));
      stops.unshift(() => server.stop());
      servers.set(peer, server);
      return server;
    };
    for (const row of rows) {
      const { contestants, left } = await contestantsOf(row, xbdback, serverOf, backing, plan);
      const samples = await measureRow(row, contestants, plan, backing.files);
      each({ row, samples, syscalls: await syscallsOf(row, xbdback, plan), left });
    }
  } finally {
    for (const stop of stops) await stop();
  }
}

/** A client of what xbdback is a client of, or why it is not there; null where the disk has none of its kind. */
function clientOf(
  peer: "vhost" | "fio-rbd",
  { vhost, rbd }: Backing,
  { scratch, missing }: Plan,
): Contestant | string | null {
  const reason = missing.get(peer === "vhost" ? "gcc" : "fio");
  if (reason) return reason;
  if (peer === "vhost") return vhost && new Vhost(vhost.pid, vhost.socket);
  return rbd ? new FioRbd(rbd, scratch) : null;
}

/** In their order, and why others are left out. */
async function contestantsOf(
  row: Row,
  xbdback: Xbdback,
  serverOf: (peer: NbdPeer) => Promise<NbdServer>,
  backing: Backing,
  plan: Plan,
): Promise<{ contestants: Contestant[]; left: Record<string, string> }> {
  const { file, scratch, missing } = plan;
  const left: Record<string, string> = {};
  const contestants: Contestant[] = [xbdback];
  const noFio = missing.get("fio");
  if (noFio) left["fio"] = noFio;
  else contestants.unshift(new FioUring("fio", file, scratch));
  for (const peer of row.peers) {
    if (peer === "traced" || peer === "recorded") {
      contestants.push(new Observed(peer, xbdback, scratch));
      continue;
    }
    if (peer === "vhost" || peer === "fio-rbd") {
      const client = clientOf(peer, backing, plan);
      if (typeof client === "string") left[peer] = client;
      else if (client) contestants.push(client);
      continue;
    }
    const reason = noFio ?? missing.get(peer);
    if (reason) left[peer] = reason;
    else if (peer === "qemu-nbd" || peer === "nbdkit") {
      const { pid, socket } = await serverOf(peer);
      contestants.push(new FioNbd(peer, pid, socket, scratch));
    } else contestants.push(new FioUring(peer, file, scratch));
  }
  return { contestants, left };
}

async function measureRow(
  row: Row,
  contestants: readonly Contestant[],
  { repeats, seconds }: Plan,
  files: readonly string[],
): Promise<Map<string, Sample[]>> {
  const pids = contestants.flatMap((contestant) => contestant.pids);
  if (row.pinned) for (const pid of pids) pin(pid, PINNED_CPU);
  try {
    for (const contestant of contestants)
      if (contestant.warmUpSeconds) await contestant.run(row, Math.min(contestant.warmUpSeconds, seconds));
    const samples = new Map<string, Sample[]>(contestants.map(({ name }) => [name, []]));
    for (let repeat = 0; repeat < repeats; repeat++) {
      for (let i = 0; i < contestants.length; i++) {
        // Nobody always comes after the same one.
        const contestant = contestants[(i + repeat) % contestants.length];
        if (row.readPercent < 100) for (const file of files) settle(file);
        samples.get(contestant.name)!.push(await contestant.run(row, seconds));
      }
    }
    return samples;
  } finally {
    if (row.pinned) for (const pid of pids) pin(pid, ALL_CPUS);
  }
}

const ALL_CPUS = `0-${cpus().length - 1}`;

/** A run of its own: who counts system calls slows them down. */
async function syscallsOf(
  row: Row,
  { machine }: Xbdback,
  { syscallTool, seconds }: Plan,
): Promise<SyscallsPerRequest | null> {
  if (!syscallTool) return null;
  const { blockSize, depth, readPercent, sequential } = row;
  const job = { blockSize, depth, readPercent, sequential, seconds: Math.min(seconds, 0.5) };
  const { counts, result } = await countSyscalls(syscallTool, [machine.backendPid, machine.guestsPid], () =>
    machine.load(job, !row.pinned),
  );
  const [backend, guest] = counts;
  const operations = Math.max(1, result.operations);
  return {
    backend: backend.total / operations,
    backendEnters: backend.enters / operations,
    guest: guest.total / operations,
  };
}

/** Reads the whole file, so that it is in the page cache. */
export async function preload(file: string): Promise<void> {
  for await (const _ of createReadStream(file, { highWaterMark: 1 << 20 }));
}

/** What one contestant has left to be written is not another's to wait for. */
function settle(file: string): void {
  const fd = openSync(file, "r+");
  fsyncSync(fd);
  closeSync(fd);
}
