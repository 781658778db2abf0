/** Traces and recordings of rings at work. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { coreModule } from "../../host/core/load.js";
import { type RecordLine, record, type TraceItem, type TraceLine, trace } from "../../host/daemon/streams.js";
import type { Blkfront } from "../../host/guest/blkfront.js";
import { Op } from "../../host/guest/layout.js";
import { random } from "../../host/guest/workload.js";
import { ObservationQueue } from "../../host/reactor/observation.js";
import { Recorder } from "../../host/reactor/recorder.js";
import { playSession, readSession, sessionMemory } from "../../host/session/index.js";
import { Result } from "../../host/storage/device.js";
import { testDevices } from "../vbd/device.js";
import { type Guest, IMAGE_BYTES, LIMIT, type Machine, onMachine, until } from "../vbd/harness.js";

const NAME = "xbdback1i51712";

/** What the recorded ring's core did, line by line as a player's log has it, but for places in memory. */
class Witness {
  readonly lines: string[] = [];

  /** Looks at every recorder until `restore` is called: tests and rings are in one thread. */
  static watch(): Witness & { restore(): void } {
    const witness = new Witness();
    const { begin, stepped, passEnds } = Recorder.prototype;
    const cores = new WeakMap<Recorder, { core: Parameters<Recorder["begin"]>[0]; rspProd: number }>();
    Recorder.prototype.begin = function (core) {
      cores.set(this, { core, rspProd: core.memory.u32[abi.OUT_RSP_PROD >> 2] });
      begin.call(this, core);
    };
    Recorder.prototype.stepped = function () {
      const seen = cores.get(this)!;
      const { u32, u8, memory } = seen.core.memory;
      const view = new DataView(memory.buffer);
      const mask = u32[abi.CONFIG_ENTRIES >> 2] - 1;
      for (; seen.rspProd !== u32[abi.OUT_RSP_PROD >> 2]; seen.rspProd = (seen.rspProd + 1) >>> 0) {
        const at = abi.SRING + 64 + (seen.rspProd & mask) * 112;
        const id = view.getBigUint64(at, true);
        witness.lines.push(`response ${id} ${u8[at + 8]} ${view.getInt16(at + 10, true)}`);
      }
      stepped.call(this);
    };
    Recorder.prototype.passEnds = function (flags) {
      const { core } = cores.get(this)!;
      for (let i = 0; flags & abi.STEP_IO && i < core.ios; i++) {
        const { slot, operation, flags: how, position, length } = core.io(i);
        const sector = operation === abi.IO_FLUSH ? 0 : position / 512;
        witness.lines.push(`io ${slot} ${operation} ${how} ${sector} ${length / 512}`);
      }
      passEnds.call(this, flags);
    };
    return Object.assign(witness, {
      restore: () => Object.assign(Recorder.prototype, { begin, stepped, passEnds }),
    });
  }
}

/** The same of a player's log. */
function comparable(log: readonly string[]): string[] {
  return log.flatMap((line) => {
    const words = line.split(" ");
    if (words[0] === "response") return [line];
    return words[0] === "io" ? [`io ${words.slice(1, 6).join(" ")}`] : [];
  });
}

/** Requests of all kinds, good and bad; persistent grants and pages that may not be had among them. */
function mixture(guest: Guest, disk: Blkfront, seed: number): () => Promise<number> {
  const refs = Array.from({ length: 24 }, (_, i) =>
    guest.pages.grant(0, guest.pages.allocate(1), i % 8 === 0),
  );
  const table = guest.pages.allocate(1);
  const tableRef = guest.pages.grant(0, table, true);
  const roll = random(seed);
  const pick = <T>(...of: T[]): T => of[roll() % of.length];
  const segments = (count: number) =>
    Array.from({ length: count }, () => ({
      ref: pick(...refs, ...refs, roll()),
      first: pick(0, 0, 0, 0, 3, 8),
      last: pick(7, 7, 7, 7, 5),
    }));
  return () =>
    disk.submit({
      operation: pick(
        Op.read,
        Op.read,
        Op.write,
        Op.write,
        Op.writeBarrier,
        Op.flushDiskcache,
        4,
        Op.discard,
      ),
      sector: pick(0n, 8n, 16n, 24n, 2040n, BigInt(roll() % 2048), 1n << 60n),
      handle: 0,
      segments: segments(1 + (roll() % 11)),
      ...pick<object>({}, {}, {}, { indirect: true, indirectRefs: [pick(tableRef, roll())] }),
      ...pick<object>({}, {}, {}, { discard: { sectors: 8n, flag: 0 } }),
    });
}

async function play(submit: () => Promise<number>, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    await Promise.all(Array.from({ length: 48 }, submit));
  }
}

/** Reads a recording until `work` is done. */
async function recordDuring(machine: Machine, work: () => Promise<void>): Promise<Buffer> {
  const stop = new AbortController();
  const parts: Buffer[] = [];
  const lines = record(machine.backend.vbd(NAME), 0, stop.signal);
  const reading = (async () => {
    for await (const { data } of lines as AsyncGenerator<RecordLine>) {
      if (data !== undefined) parts.push(Buffer.from(data, "base64"));
    }
  })();
  await until("the recording begins", () => parts.length > 0);
  await work();
  const sizes = () => parts.reduce((sum, part) => sum + part.length, 0);
  for (let before = -1; before !== sizes(); ) {
    before = sizes();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  stop.abort();
  await reading;
  return Buffer.concat(parts);
}

for (const persistent of [true, false]) {
  const { devices, open } = testDevices();
  test(
    `a recording that begins amid requests gives the same responses and I/Os; persistent grants: ${persistent}`,
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest, { persistent });
        const device = devices.get(path)!;
        device.fault = (_, position) => (position === 4096 ? Result.Failure : null);
        const submit = mixture(guest, disk, 11);
        let done = false;
        const busy = (async () => {
          while (!done) await play(submit, 1);
        })();
        await until("pages are mapped", () => !persistent || machine.reactor.mappedPages > 10);
        const witness = Witness.watch();
        try {
          const file = await recordDuring(machine, async () => {
            await until("much was recorded", () => witness.lines.length > 3000);
            device.fault = null;
            await machine.backend.vbd(NAME).throttle({ limits: { iops: 2000, bps: 0, burst: 0 } });
            await play(submit, 5);
            await machine.backend.vbd(NAME).throttle({ limits: { iops: 0, bps: 0, burst: 0 } });
            done = true;
            await busy;
          });
          const session = readSession("recording", file);
          const log = playSession(coreModule(), sessionMemory(), session);
          assert.deepEqual(comparable(log), witness.lines);
          const statuses = new Set(
            witness.lines.filter((line) => line.startsWith("r")).map((line) => line.split(" ")[3]),
          );
          assert.ok(statuses.has("0") && statuses.has("-1"), [...statuses].join(" "));
          for (const kind of ["page", "fault", "complete"]) {
            assert.ok(
              session.records.some((one) => one.kind === kind),
              `no ${kind} was recorded`,
            );
          }
        } finally {
          witness.restore();
        }
        assert.equal(machine.status()?.state, 4);
      },
      { open, features: { persistent } },
    ),
  );
}

test(
  "a ring that halts is recorded so, and the recording ends with its ring",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    const keys = await front.ring();
    await front.write(keys);
    await front.state(3);
    await machine.untilState(4);
    const file = await recordDuring(machine, async () => {
      front.reqProd = 99;
      front.kick(keys);
      await until("it halts", () => machine.log.some((line) => line.includes("takes no more")));
    });
    const { records } = readSession("recording", file);
    assert.deepEqual(records.slice(-2), [{ kind: "index", which: 0, value: 99 }, { kind: "step" }]);
    playSession(coreModule(), sessionMemory(), { ...readSession("recording", file) });

    const lines = record(machine.backend.vbd(NAME), 0, new AbortController().signal);
    await lines.next();
    await front.state(6);
    let last: RecordLine = {};
    for await (const line of lines) last = line as RecordLine;
    assert.match(last.ended ?? "", /was closed/);
    await machine.untilState(6);
    await assert.rejects(
      record(machine.backend.vbd(NAME), 0, new AbortController().signal).next(),
      /xbdback1i51712 is not connected/,
    );
  }),
);

test(
  "the size that changes is recorded; one observer at a time, and none is left",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path });
    const disk = await machine.connect(guest);
    const file = await recordDuring(machine, async () => {
      const second = trace(machine.backend.vbd(NAME), undefined, new AbortController().signal);
      await assert.rejects(second.next(), /already traced or recorded/);
      machine.image("disk.img", IMAGE_BYTES * 2);
      await machine.backend.vbd(NAME).resize();
      await disk.write(0, new Uint8Array(512));
    });
    const { records } = readSession("recording", file);
    assert.ok(records.some((one) => one.kind === "resize" && one.sectors === IMAGE_BYTES / 256));
    for (let i = 0; i < 3; i++) await recordDuring(machine, async () => {});
    await disk.write(0, new Uint8Array(512));
  }),
);

{
  const { devices, open } = testDevices();
  test(
    "a recording that cannot begin is given up, and the guest goes on",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest);
        const device = devices.get(path)!;
        device.holding = true;
        const first = disk.write(0, new Uint8Array(512));
        await until("it is in the store", () => device.held === 1);
        const lines = record(machine.backend.vbd(NAME), 0, new AbortController().signal);
        const refused = assert.rejects(async () => {
          for await (const _ of lines);
        }, /have not completed in 5 s.*`xbdback show` shows what is stuck/);
        const second = disk.write(4096, new Uint8Array(512));
        await refused;
        await until("the next is taken", () => device.held === 2);
        device.release();
        await Promise.all([first, second]);
      },
      { open },
    ),
  );
}

test(
  "a trace tells of every request, or how many it does not tell of",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const disk = await machine.connect(guest, { queues: 2 });
    const stop = new AbortController();
    const lines = trace(machine.backend.vbd(NAME), undefined, stop.signal) as AsyncGenerator<TraceLine>;
    // Nothing to tell yet, but it has begun.
    await lines.next();
    const told: TraceItem[] = [];
    let dropped = 0;
    const readAll = async (): Promise<void> => {
      const answered = machine.status()!.counters.responses;
      while (told.length + dropped < answered) {
        const { events = [], dropped: more = 0 } = (await lines.next()).value as TraceLine;
        told.push(...events);
        dropped += more;
      }
      assert.equal(told.length + dropped, answered);
    };
    await disk.write(8 * 512, new Uint8Array(1024));
    await readAll();
    const [one] = told;
    assert.deepEqual([told.length, one.sectors, one.status, one.abi], [1, 2, 0, "x86_64"]);
    assert.match(one.request, /^0101/);
    assert.ok(one.latency !== null && one.latency > 0 && one.latency < 10_000);
    assert.ok(Math.abs(one.time - Date.now()) < 20_000);
    const submit = mixture(guest, disk, 3);
    await play(submit, 5);
    await readAll();
    assert.equal(dropped, 0);
    assert.ok(told.some(({ status }) => status === -1));
    assert.deepEqual(new Set(told.map(({ ring }) => ring)), new Set([0, 1]));
    // Nobody reads: what the queues hold is told, the rest counted.
    await play(submit, 120);
    await readAll();
    assert.ok(dropped > 0 && told.length > 2000, `${dropped} dropped, ${told.length} told`);
    stop.abort();
    await lines.return(undefined);
  }),
);

test("a queue gives what was written, across its end, and no more than fits", () => {
  const queue = ObservationQueue.for("trace");
  const roll = random(5);
  const written: Uint8Array[] = [];
  const read: Uint8Array[] = [];
  let refused = 0;
  for (let i = 0; i < 2000; i++) {
    const bytes = new Uint8Array(1 + (roll() % 5000)).map(() => roll());
    if (queue.write(bytes)) written.push(bytes);
    else refused++;
    read.push(queue.read(roll() % 4000));
  }
  read.push(queue.read(1 << 20));
  assert.ok(refused > 0 && written.length > 200, `${refused} refused`);
  assert.ok(Buffer.concat(written).equals(Buffer.concat(read)));
  queue.drop();
  queue.drop();
  assert.equal(queue.takeDropped(), 2);
  assert.equal(queue.takeDropped(), 0);
  assert.equal(queue.ended, null);
  queue.end("first");
  queue.end("second");
  assert.equal(queue.ended, "first");
});
