/** Random conversations, with transactions and with guests' permissions: ours answers as Debian's C xenstored does. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { MessageType as M } from "../../host/platform/xenstore/wire.js";
import { type Oracle, oracleMissing, startOracle } from "./oracle.js";
import { Peer } from "./peer.js";

/** Conversations to have, other ones each time; unless it is set, always the same few. */
const RUNS = process.env["XENSTORE_RUNS"];
const DEFAULT_RUNS = { numRuns: 30, seed: 1 };
const GUESTS = [1, 2];
/** Bytes of payload near the quota of a node's size. */
const BIG = 1900;

interface Step {
  readonly who: number;
  readonly type: number;
  readonly payload: string;
  /** Which of the sender's open transactions: 0 none, otherwise a number that is reduced to what is open. */
  readonly transaction: number;
}

const names = ["a", "b", "c"];
const tree = fc.array(fc.constantFrom(...names), { minLength: 1, maxLength: 3 });
const path = fc.oneof(
  { weight: 6, arbitrary: tree.map((parts) => `/p/${parts.join("/")}`) },
  { weight: 3, arbitrary: tree.map((parts) => parts.join("/")) },
  { weight: 2, arbitrary: tree.map((parts) => `/local/domain/1/${parts.join("/")}`) },
  {
    weight: 1,
    arbitrary: fc.constantFrom("/", "/p", "/local", "/local/domain/1", "/local/domain/2", "/q/r"),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom("", "//", "/p/", "/p//a", "/p/a b", "/p/a.b", "@x", "a/", "/p/é", "-", "/@"),
  },
);
// C xenstored answers SET_PERMS of "@x", and READ of a path without its NUL, with whatever error came before.
const nodePath = path.filter((p) => p !== "@x");
const value = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom("", "1", "4", "\0", "x\0y\0") },
  { weight: 1, arbitrary: fc.integer({ min: 1950, max: 2060 }).map((n) => "v".repeat(n)) },
);
const entry = fc.tuple(fc.constantFrom("n", "r", "w", "b"), fc.constantFrom(0, 1, 2)).map((e) => e.join(""));
const oddEntry = fc.constantFrom("", "x1", "n", "r1x", "1");
const entries = fc.oneof(
  { weight: 12, arbitrary: fc.array(entry, { minLength: 1, maxLength: 4 }) },
  { weight: 1, arbitrary: fc.array(entry, { maxLength: 7 }) },
  { weight: 1, arbitrary: fc.array(oddEntry, { minLength: 1, maxLength: 2 }) },
);
const token = fc.constantFrom("t", "u", "");
const watchPath = fc.oneof({ weight: 8, arbitrary: path }, fc.constantFrom("@releaseDomain", "@nonsense"));
const strings = (...parts: string[]) => parts.map((part) => `${part}\0`).join("");

/** Kinds of message, each with how often it comes. */
const request = fc.oneof(
  { weight: 8, arbitrary: fc.tuple(path, value).map(([p, v]) => [M.write, `${p}\0${v}`] as const) },
  { weight: 4, arbitrary: path.map((p) => [M.read, strings(p)] as const) },
  { weight: 3, arbitrary: path.map((p) => [M.directory, strings(p)] as const) },
  { weight: 3, arbitrary: path.map((p) => [M.mkdir, strings(p)] as const) },
  { weight: 4, arbitrary: path.map((p) => [M.remove, strings(p)] as const) },
  { weight: 3, arbitrary: path.map((p) => [M.getPermissions, strings(p)] as const) },
  {
    weight: 5,
    arbitrary: fc.tuple(nodePath, entries).map(([p, e]) => [M.setPermissions, strings(p, ...e)] as const),
  },
  { weight: 4, arbitrary: fc.tuple(watchPath, token).map(([p, t]) => [M.watch, strings(p, t)] as const) },
  { weight: 2, arbitrary: fc.tuple(watchPath, token).map(([p, t]) => [M.unwatch, strings(p, t)] as const) },
  { weight: 3, arbitrary: fc.constant([M.transactionStart, "\0"] as const) },
  {
    weight: 4,
    arbitrary: fc.constantFrom("T\0", "T\0", "F\0", "X\0").map((p) => [M.transactionEnd, p] as const),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(path, fc.constantFrom("0", "1", "2", "5", "x"))
      .map(([p, o]) => [M.directoryPart, strings(p, o)] as const),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      [M.resetWatches, "\0"] as const,
      [M.getDomainPath, "7\0"] as const,
      [M.isDomainIntroduced, "1\0"] as const,
      [M.isDomainIntroduced, "9\0"] as const,
      [M.introduce, "1\0"] as const,
      [M.release, "9\0"] as const,
      [M.release, "0\0"] as const,
      [M.resume, "1\0"] as const,
      [M.control, "check\0"] as const,
      [M.control, "nonsense\0"] as const,
      [M.watch, "/p\0"] as const,
      [M.write, "/p/a"] as const,
      [M.setPermissions, "/p/a"] as const,
      [M.watchEvent, "/p\0t\0"] as const,
      [M.error, "\0"] as const,
      [99, "\0"] as const,
    ),
  },
);
const step: fc.Arbitrary<Step> = fc
  .tuple(
    fc.nat(2 + GUESTS.length - 1),
    request,
    fc.oneof({ weight: 19, arbitrary: fc.constantFrom(0, 0, 1, 1, 2) }, fc.constant(12345)),
  )
  .map(([who, [type, payload], transaction]) => {
    // C xenstored fails a transaction for good, with ENOMEM, once it has refused a value in it as too big.
    return { who, type, payload, transaction: payload.length > BIG ? 0 : transaction };
  });

/** One xenstored with its clients: two of domain 0, then the guests. */
class Party {
  readonly peers: Peer[];
  #open: string[][];
  constructor(peers: Peer[]) {
    this.peers = peers;
    this.#open = peers.map(() => []);
  }

  async setUp(): Promise<void> {
    const [toolstack] = this.peers;
    for (const [where, permissions] of [
      ["/p", "n0\0r1\0"],
      ["/p/a", "n1\0r2\0"],
      ["/p/b", "b0\0"],
      ["/local/domain/1", "n1\0r2\0"],
      ["/local/domain/2", "n2\0"],
    ]) {
      await toolstack.ask(M.mkdir, `${where}\0`);
      await toolstack.ask(M.setPermissions, `${where}\0${permissions}`);
    }
    // Every peer but the toolstack hears of all that it may.
    for (const peer of this.peers.slice(1)) await peer.ask(M.watch, "/\0all\0");
  }

  /** The answer, and the events that everybody has got by then. */
  async take({ who, type, payload, transaction }: Step): Promise<unknown[]> {
    const open = this.#open[who];
    const id =
      transaction > 100
        ? transaction
        : transaction && open.length
          ? Number(open[transaction % open.length])
          : 0;
    const answer = await this.peers[who].request(type, Buffer.from(payload, "latin1"), id);
    if (answer.type === M.transactionStart) open.push(answer.payload.slice(0, -1));
    if (answer.type === M.transactionEnd) open.splice(open.indexOf(String(id)), 1);
    if (answer.type === M.resetWatches) open.length = 0;
    // The generation, which is a number of its own in each store.
    const text = answer.type === M.directoryPart ? answer.payload.replace(/^[0-9]+/, "#") : answer.payload;
    // Without repetitions: whether the same event twice becomes one is a matter of time.
    const events = await Promise.all(this.peers.map(async (peer) => [...new Set(await peer.takeEvents())]));
    return [answer.type, answer.transactionId, text, ...events];
  }

  async tidy(): Promise<void> {
    for (const peer of this.peers) await peer.ask(M.resetWatches, "\0");
    for (const open of this.#open) open.length = 0;
    const [toolstack] = this.peers;
    await toolstack.ask(M.setPermissions, "/\0n0\0");
    for (const name of (await toolstack.ask(M.directory, "/\0")).split("\0")) {
      if (name) await toolstack.ask(M.remove, `/${name}\0`);
    }
    for (const peer of this.peers) await peer.takeEvents();
  }
}

const skip = oracleMissing();
let dir: string;
let oracle: Oracle;
let server: XenstoreServer;
let theirs: Party;
let ours: Party;

before(async () => {
  if (skip) return;
  dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  oracle = await startOracle();
  server = await XenstoreServer.listen(join(dir, "socket"));
  const their0 = [await Peer.overSocket(oracle.socketPath), await Peer.overSocket(oracle.socketPath)];
  const our0 = [await Peer.overSocket(join(dir, "socket")), await Peer.overSocket(join(dir, "socket"))];
  for (const domid of GUESTS) {
    their0.push(await oracle.guest(domid));
    server.introduce(domid);
    await server.listenFor(domid, join(dir, `${domid}`));
    our0.push(await Peer.overSocket(join(dir, `${domid}`)));
  }
  theirs = new Party(their0);
  ours = new Party(our0);
});

after(async () => {
  if (skip) return;
  for (const peer of [...theirs.peers, ...ours.peers]) peer.close();
  await server.close();
  await oracle.stop();
  rmSync(dir, { recursive: true, force: true });
});

test("random conversations", { skip, timeout: 600_000 }, async () => {
  await Promise.all([theirs.tidy(), ours.tidy()]);
  const outcome = await fc.check(
    fc
      .asyncProperty(fc.array(step, { maxLength: 60, size: "max" }), async (steps) => {
        await Promise.all([theirs.setUp(), ours.setUp()]);
        const log: string[] = [];
        for (const one of steps) {
          const [expected, actual] = await Promise.all([theirs.take(one), ours.take(one)]);
          log.push(`${JSON.stringify(one)} -> ${JSON.stringify(expected)}`);
          assert.deepEqual(actual, expected, `\n${log.join("\n")}\n`);
        }
      })
      .afterEach(async () => {
        await Promise.all([theirs.tidy(), ours.tidy()]);
      }),
    RUNS ? { numRuns: Number(RUNS) } : DEFAULT_RUNS,
  );
  if (outcome.failed)
    assert.fail(`${outcome.errorInstance}\nseed ${outcome.seed}, path ${outcome.counterexamplePath}`);
});
