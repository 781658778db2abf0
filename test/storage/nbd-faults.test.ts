/** NBD servers behind qemu-storage-daemon that fail, lie, stall, go and come back: the guest gets its data, or an error in time. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openNbd } from "../../host/storage/helper/nbd.js";
import type { Patience } from "../../host/storage/patience.js";
import { absent } from "../support/programs.js";
import { until } from "../vbd/harness.js";
import { fill, flush, gather, pattern, read, scatter, write } from "./helpers.js";
import { type Asked, CMD, honest, type Offer, type Peer, SEND, scripted } from "./nbd-server.js";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const HOW = { timeout: 180_000, skip: absent("qemu-storage-daemon") };

type Evil = (peer: Peer, asked: Asked, connection: number) => boolean;

interface Opened {
  readonly device: BlockDevice;
  readonly lines: string[];
  /** What the server has, and what of it survives its death. */
  readonly disk: Buffer;
  /** Connections that went beyond a question, so far. */
  readonly used: () => number;
}

/**
 * A server whose connection number n, of those that go beyond a question, does first what `evil` says, which answers a request
 * itself if it returns true. Null for an offer is a server that is not there.
 */
async function open(
  t: TestContext,
  evil: Evil,
  patience: Partial<Patience> = {},
  offer: (connection: number) => Partial<Offer> | null = () => ({}),
): Promise<Opened> {
  const disk = pattern(SIZE);
  const lines: string[] = [];
  let used = 0;
  let device: BlockDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const { uri } = await scripted(t, async (peer) => {
    const number = used;
    const offered = offer(number);
    if (offered === null) return void peer.socket.destroy();
    await peer.handshake({ size: SIZE, ...offered });
    used++;
    await honest(peer, disk, (asked) => evil(peer, asked, number));
  });
  device = await openNbd(uri, { readOnly: false, warn: (line) => void lines.push(line), patience });
  return { device, lines, disk, used: () => used };
}

const ofGuest = ({ command }: Asked): boolean => command !== CMD.disc;

const ENDS: Record<string, (peer: Peer) => void> = {
  "closes the connection": (peer) => void peer.socket.destroy(),
  "sends rubbish": (peer) => peer.say(Buffer.alloc(64, 0xaa)),
  "sends half a reply": (peer) => void peer.socket.end(Buffer.from("668e33ef0001", "hex")),
};

for (const [what, end] of Object.entries(ENDS)) {
  test(
    `a server ${what} instead of an answer: the requests are done on another connection`,
    HOW,
    async (t) => {
      const { device, disk, used } = await open(t, (peer, asked, connection) => {
        if (connection > 0 || !ofGuest(asked) || asked.position < MIB) return false;
        end(peer);
        return true;
      });
      const data = scatter(8192);
      fill(data, pattern(8192, 7));
      const reading = scatter(4096);
      const [written, got] = await Promise.all([write(device, MIB, data), read(device, 2 * MIB, reading)]);
      assert.deepEqual([written.result, got.result], [Result.Success, Result.Success]);
      assert.deepEqual(gather(reading), disk.subarray(2 * MIB, 2 * MIB + 4096));
      assert.equal((await flush(device)).result, Result.Success);
      assert.deepEqual(disk.subarray(MIB, MIB + 8192), gather(data));
      assert.equal(used(), 2);
    },
  );
}

test(
  "a server dies with what it has not flushed: it is written again before a flush succeeds",
  HOW,
  async (t) => {
    const before = pattern(SIZE);
    const { device, disk, used } = await open(t, (peer, { command }, connection) => {
      if (connection > 0 || command !== CMD.flush) return false;
      disk.set(before);
      peer.socket.destroy();
      return true;
    });
    const data = scatter(4096);
    for (const [at, seed] of [
      [0, 2],
      [4096, 3],
      [0, 4],
    ]) {
      fill(data, pattern(4096, seed));
      assert.equal((await write(device, at, data)).result, Result.Success);
    }
    assert.equal((await flush(device)).result, Result.Success);
    assert.deepEqual(disk.subarray(0, 4096), gather(data));
    assert.equal(used(), 2);
  },
);

test("a server dies while no request is in flight: it is seen, and written again", HOW, async (t) => {
  const before = pattern(SIZE);
  let serving: Peer | null = null;
  const { device, disk, used } = await open(t, (peer) => {
    serving = peer;
    return false;
  });
  const data = scatter(4096);
  fill(data, pattern(4096, 9));
  assert.equal((await write(device, MIB, data)).result, Result.Success);
  disk.set(before);
  (serving as Peer | null)?.socket.destroy();
  await until("it is written again", () => disk.subarray(MIB, MIB + 4096).equals(gather(data)));
  assert.equal(used(), 2);
});

test("an error of the server's is the guest's, and costs no connection", HOW, async (t) => {
  const { device, used } = await open(t, (peer, { command, cookie }) => {
    if (command !== CMD.read) return false;
    peer.fail(cookie, 5, "the disk is on fire");
    return true;
  });
  const { result, error } = await read(device, MIB, scatter(4096));
  assert.equal(result, Result.Failure);
  assert.match(String(error), /read 4096 bytes at 1048576 of nbd\+unix:\S+: EIO/);
  assert.equal(used(), 1);
});

test("a server stalls: it is given up, and the request done on another connection", HOW, async (t) => {
  const stalls: Evil = (_, asked, connection) => connection === 0 && asked.command === CMD.read;
  const { device, used } = await open(t, stalls, { silenceMs: 500 });
  assert.equal((await read(device, MIB, scatter(4096))).result, Result.Success);
  assert.equal(used(), 2);
});

const leaves: Evil = (peer, asked, connection) => {
  if (connection > 0 || asked.command !== CMD.read) return false;
  peer.socket.destroy();
  return true;
};

for (const [what, other] of Object.entries({
  "a smaller disk": { size: SIZE / 2 },
  "a disk that is only read": { flags: 1 | 2 },
  "larger blocks": { blocks: [4096, 4096, MIB] },
  "no flush": { flags: 1 | SEND.fua | SEND.trim },
} satisfies Record<string, Partial<Offer>>)) {
  test(`a server that comes back with ${what} is not taken for the same`, HOW, async (t) => {
    const offer = (connection: number): Partial<Offer> => (connection > 0 ? other : {});
    const { device, lines } = await open(t, leaves, { reconnectMs: 1000 }, offer);
    assert.equal((await read(device, MIB, scatter(4096))).result, Result.Failure);
    assert.match(lines.join("\n"), /no connection within 1 s \(.*different disk: \d+ bytes in blocks of \d+/);
  });
}

test("a server that comes back with a larger disk has grown it", HOW, async (t) => {
  const offer = (connection: number): Partial<Offer> => (connection > 0 ? { size: 2 * SIZE } : {});
  const { device } = await open(t, leaves, {}, offer);
  assert.equal((await read(device, MIB, scatter(4096))).result, Result.Success);
  assert.equal(await device.refreshSize?.(), true);
  assert.equal(device.size, 2 * SIZE);
});

const onceOnly = (connection: number): Partial<Offer> | null => (connection === 0 ? {} : null);

test("a server that always sends rubbish costs an error in time", HOW, async (t) => {
  const rubbish: Evil = (peer, asked) => {
    if (!ofGuest(asked)) return false;
    peer.say(Buffer.alloc(64, 0xaa));
    return true;
  };
  const { device } = await open(t, rubbish, { reconnectMs: 500 });
  const { result, error } = await read(device, MIB, scatter(4096));
  assert.equal(result, Result.Failure);
  assert.match(String(error), /within 0\.5 s after/);
});

test("a server that goes for good costs an error in time, and the next ones come at once", HOW, async (t) => {
  let there = false;
  const offer = (connection: number): Partial<Offer> | null => (there ? {} : onceOnly(connection));
  const { device } = await open(t, leaves, { reconnectMs: 500 }, offer);
  assert.equal((await read(device, MIB, scatter(4096))).result, Result.Failure);
  assert.notEqual(device.outage, null);
  const start = performance.now();
  for (let i = 0; i < 100; i++)
    assert.equal((await write(device, MIB, scatter(4096))).result, Result.Failure);
  assert.ok(performance.now() - start < 500 * 20, "each waited in vain");
  there = true;
  await until("it is connected again", () => device.outage === null);
  assert.equal((await write(device, MIB, scatter(4096))).result, Result.Success);
});

test("what cannot be written again is lost, and nothing more is written", HOW, async (t) => {
  const { device, lines } = await open(t, (peer, asked, connection) => {
    if (connection === 0) return leaves(peer, asked, connection);
    if (asked.command !== CMD.write) return false;
    peer.simple(asked.cookie, 28);
    return true;
  });
  assert.equal((await write(device, 0, scatter(4096))).result, Result.Success);
  assert.equal((await read(device, MIB, scatter(4096))).result, Result.Success);
  assert.equal((await write(device, 0, scatter(4096))).result, Result.Failure);
  assert.match(lines.join("\n"), /a write that was acknowledged cannot be repeated/);
});

test("a flush that fails has failed for good", HOW, async (t) => {
  let flushes = 0;
  const { device } = await open(t, (peer, { command, cookie }) => {
    if (command !== CMD.flush || flushes++ > 0) return false;
    peer.simple(cookie, 5);
    return true;
  });
  assert.equal((await write(device, 0, scatter(4096))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Failure);
  assert.match(String((await write(device, 0, scatter(4096))).error), /nothing more is written/);
  assert.equal((await flush(device)).result, Result.Failure);
  assert.equal((await read(device, 0, scatter(4096))).result, Result.Success);
  assert.equal(flushes, 1);
});

test(
  "what is not flushed when the disk is closed is flushed, also over another connection",
  HOW,
  async (t) => {
    const order: [number, number][] = [];
    const { device } = await open(t, (peer, asked, connection) => {
      if (ofGuest(asked)) order.push([connection, asked.command]);
      if (connection > 0 || asked.command !== CMD.flush) return false;
      peer.socket.destroy();
      return true;
    });
    await write(device, 0, scatter(4096));
    await device.close();
    assert.equal(device.flushErrno, 0);
    assert.deepEqual(order.slice(0, 4), [
      [0, CMD.write],
      [0, CMD.flush],
      [1, CMD.write],
      [1, CMD.flush],
    ]);
  },
);

test("closing does not wait for a server that is gone", HOW, async (t) => {
  const { device, lines } = await open(t, leaves, { reconnectMs: 300 }, onceOnly);
  await write(device, 0, scatter(4096));
  await read(device, MIB, scatter(4096));
  await device.close();
  assert.notEqual(device.flushErrno, 0);
  assert.match(lines.at(-1) ?? "", /the last writes cannot be flushed and may be lost/);
});
