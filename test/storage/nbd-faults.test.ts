/** NBD servers that lie, stall, go and come back: the guest gets its data, or an error in a bounded time. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Result } from "../../host/storage/device.js";
import type { NbdDevice } from "../../host/storage/nbd/device.js";
import { openNbd } from "../../host/storage/nbd/open.js";
import type { Patience } from "../../host/storage/patience.js";
import { u16, u32, u64 } from "../nbd/raw-client.js";
import { pause, until } from "../vbd/harness.js";
import { fill, flush, gather, LIMIT, pattern, read, scatter, write } from "./helpers.js";
import { type Asked, CMD, honest, type Offer, type Peer, type Scripted, scripted } from "./nbd-server.js";

const MIB = 1 << 20;
const SIZE = 8 * MIB;

interface Opened {
  readonly device: NbdDevice;
  readonly server: Scripted;
  readonly lines: string[];
  readonly disk: Buffer;
}

/** A server whose connection number n does first what `evil` says, which answers a request itself if it returns true. */
async function open(
  t: TestContext,
  evil: (peer: Peer, asked: Asked, connection: number) => boolean | Promise<boolean>,
  patience: Partial<Patience> = {},
  offer: (connection: number) => Partial<Offer> | null = () => ({}),
): Promise<Opened> {
  const disk = pattern(SIZE);
  const lines: string[] = [];
  let device: NbdDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const server = await scripted(t, async (peer, connection) => {
    const offered = offer(connection);
    if (offered === null) return void peer.socket.destroy();
    await peer.handshake({ size: SIZE, ...offered });
    await honest(peer, disk, (asked) => evil(peer, asked, connection));
  });
  const warn = (line: string): void => void lines.push(line);
  device = await openNbd(server.uri, { readOnly: false, warn, patience });
  return { device, server, lines, disk };
}

function leave(peer: Peer): true {
  peer.socket.destroy();
  return true;
}

function rubbish(peer: Peer): true {
  peer.say(Buffer.alloc(64, 1));
  return true;
}

/** What a server may say to a read or write of 4096 bytes at 8192, and what is thought of it. */
const RUBBISH: Record<string, [(peer: Peer, asked: Asked) => void, RegExp, structured?: boolean]> = {
  "no reply at all": [(peer) => peer.say(Buffer.alloc(64, 0xaa)), /0xaaaaaaaa where a reply should begin/],
  "a reply to nobody": [
    (peer, { cookie }) => peer.chunk(cookie + 100n, 1, 0),
    /a request that was never made/,
  ],
  "a reply to another session": [(peer, { cookie }) => peer.chunk(cookie ^ (1n << 40n), 1, 0), /never made/],
  "a simple reply to a structured read": [
    (peer, { cookie, command }) => peer.simple(command === CMD.read ? cookie : 0n),
    /a simple reply to a read|never made/,
  ],
  "data twice": [
    (peer, { cookie, position }) => {
      peer.chunk(cookie, 0, 1, u64(position), Buffer.alloc(1024));
      peer.chunk(cookie, 0, 1, u64(position + 512), Buffer.alloc(1024));
    },
    /protocol error/,
  ],
  "data before the range": [
    (peer, { cookie }) => peer.chunk(cookie, 1, 1, u64(0), Buffer.alloc(512)),
    /protocol error/,
  ],
  "data beyond the range": [
    (peer, { cookie, position }) => peer.chunk(cookie, 1, 1, u64(position + 4096 - 512), Buffer.alloc(1024)),
    /protocol error/,
  ],
  "data at 2^63": [
    (peer, { cookie }) => peer.chunk(cookie, 1, 1, u64(2n ** 63n), Buffer.alloc(512)),
    /protocol error/,
  ],
  "data of 4 GiB": [
    (peer, { cookie, position }) =>
      peer.say(u32(0x668e33ef), u16(1), u16(1), u64(cookie), u32(2 ** 32 - 1), u64(position)),
    /protocol error/,
  ],
  "a hole beyond the range": [
    (peer, { cookie, position }) => peer.chunk(cookie, 1, 2, u64(position), u32(8192)),
    /protocol error/,
  ],
  "an empty hole": [
    (peer, { cookie, position }) => peer.chunk(cookie, 1, 2, u64(position), u32(0)),
    /protocol error/,
  ],
  "an end without all of the data": [
    (peer, { cookie, position, command }) => {
      if (command === CMD.read) peer.chunk(cookie, 1, 1, u64(position), Buffer.alloc(512));
      else peer.say(Buffer.alloc(16));
    },
    /without all of the data|0x0 where/,
  ],
  "an unknown chunk": [(peer, { cookie }) => peer.chunk(cookie, 1, 77), /a chunk of type 77/],
  "an error without a number": [(peer, { cookie }) => peer.chunk(cookie, 1, 0x8001), /a chunk of type 32769/],
  "an error of 1 MiB": [
    (peer, { cookie }) => peer.chunk(cookie, 1, 0x8001, Buffer.alloc(MIB)),
    /a chunk of type 32769 and 1048576/,
  ],
  "a structured reply where none was agreed on": [
    (peer, { cookie }) => peer.chunk(cookie, 1, 0),
    /that was not negotiated/,
    false,
  ],
  "a shutdown": [(peer, { cookie }) => peer.fail(cookie, 108, ""), /the server is shutting down/],
  "half a reply": [
    (peer) => {
      peer.say(u32(0x668e33ef), u16(1));
      peer.socket.end();
    },
    /the server closed the connection/,
  ],
  "a reset": [(peer) => void peer.socket.resetAndDestroy(), /E|closed/],
  "nothing but the end": [(peer) => void peer.socket.destroy(), /the server closed the connection/],
};

for (const [what, [evil, pattern_, structured = true]] of Object.entries(RUBBISH)) {
  test(`once ${what}: the requests are done on another connection`, LIMIT, async (t) => {
    const { device, lines, disk, server } = await open(
      t,
      (peer, asked, connection) => {
        if (connection > 0) {
          if (!structured && asked.command === CMD.read) {
            peer.simple(asked.cookie, 0, disk.subarray(asked.position, asked.position + asked.length));
            return true;
          }
          return false;
        }
        evil(peer, asked);
        return true;
      },
      {},
      () => ({ structured }),
    );
    const data = pattern(4096, 3);
    const to = scatter(512, 3584);
    const before = Buffer.from(disk.subarray(8192, 12288));
    const outcomes = await Promise.all([
      read(device, 8192, to),
      write(device, 16384, fill(scatter(4096), data)),
    ]);
    assert.deepEqual(
      outcomes.map(({ result }) => result),
      [Result.Success, Result.Success],
    );
    assert.deepEqual(gather(to), before);
    assert.deepEqual(disk.subarray(16384, 20480), data);
    assert.equal(server.connections, 2);
    assert.match(lines[0], pattern_);
    assert.match(lines.at(-1) ?? "", /connected again; 2 requests are sent again/);
    assert.equal(device.outage, null);
  });
}

test("a server that always sends malformed replies costs an error in a bounded time", LIMIT, async (t) => {
  const { device } = await open(t, rubbish, { reconnectMs: 300 });
  const { result, error } = await read(device, 0, scatter(512));
  assert.equal(result, Result.Failure);
  assert.match(
    error?.message ?? "",
    /EIO: no answer within 0\.3 s after the connection was lost: NBD protocol error/,
  );
});

test(
  "a server that goes for good costs an error in a bounded time, and the next ones come at once",
  LIMIT,
  async (t) => {
    const { device } = await open(t, leave, { reconnectMs: 300 }, (connection) =>
      connection === 0 ? {} : null,
    );
    assert.match((await write(device, 0, scatter(512))).error?.message ?? "", /no answer within 0\.3 s/);
    assert.notEqual(device.outage, null);
    const start = performance.now();
    for (let i = 0; i < 100; i++) assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
    assert.ok(performance.now() - start < 300 * 20, "each waited in vain");
  },
);

test("a disk whose server comes back after errors reads again, and writes again", LIMIT, async (t) => {
  let there = false;
  const { device } = await open(
    t,
    (peer, _, connection) => connection === 0 && leave(peer),
    { reconnectMs: 200 },
    (connection) => (connection === 0 || there ? {} : null),
  );
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  there = true;
  await until("another connection", () => device.outage === null);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
});

test("a server that stalls is given up, and one that always stalls costs an error", LIMIT, async (t) => {
  const once = await open(t, (_, __, connection) => connection === 0, { silenceMs: 200 });
  assert.equal((await read(once.device, 0, scatter(512))).result, Result.Success);
  assert.match(once.lines[0], /no data from the server, which owes a reply, for 0\.2 s/);
  const always = await open(t, () => true, { silenceMs: 200, reconnectMs: 600 });
  const { error } = await read(always.device, 0, scatter(512));
  assert.match(error?.message ?? "", /no answer within 0\.6 s/);
});

test("an idle server is not given up", LIMIT, async (t) => {
  const { device, server } = await open(t, () => false, { silenceMs: 1500 });
  await read(device, 0, scatter(512));
  await pause(2000);
  await read(device, 0, scatter(512));
  assert.equal(server.connections, 1);
});

test(
  "what was acknowledged and not flushed is written again first, in order; what was flushed is not",
  LIMIT,
  async (t) => {
    const again: [number, number, number][] = [];
    const { device } = await open(t, (peer, { command, position, data }, connection) => {
      if (connection === 0 && command === CMD.read) {
        peer.socket.destroy();
        return true;
      }
      if (connection > 0 && command !== CMD.disc) again.push([command, position, data[0] ?? 0]);
      return false;
    });
    const put = (position: number, byte: number) =>
      write(device, position, fill(scatter(512), Buffer.alloc(512, byte)));
    await put(0, 1);
    await flush(device);
    await put(512, 2);
    await put(1024, 3);
    const from = fill(scatter(512), Buffer.alloc(512, 4));
    await write(device, 512, from);
    // The guest's pages are its own again.
    fill(from, Buffer.alloc(512, 99));
    await read(device, 4096, scatter(512));
    assert.deepEqual(again, [
      [CMD.write, 512, 2],
      [CMD.write, 1024, 3],
      [CMD.write, 512, 4],
      [CMD.read, 4096, 0],
    ]);
  },
);

test("a flush covers what was acknowledged before it, and no more", LIMIT, async (t) => {
  const again: number[] = [];
  const held: (() => void)[] = [];
  const { device } = await open(t, (peer, { command, position, cookie }, connection) => {
    if (connection === 0 && command === CMD.flush) held.push(() => peer.simple(cookie));
    else if (connection === 0 && command === CMD.read) peer.socket.destroy();
    else if (connection > 0 && command === CMD.write) again.push(position);
    return connection === 0 && command !== CMD.write;
  });
  await write(device, 512, scatter(512));
  const flushed = flush(device);
  await write(device, 1024, scatter(512));
  await until("the flush", () => held.length === 1);
  held[0]();
  assert.equal((await flushed).result, Result.Success);
  await read(device, 0, scatter(512));
  assert.deepEqual(again, [1024]);
});

test("a flush is not done before what the last server may have lost is written again", LIMIT, async (t) => {
  const order: number[] = [];
  const { device } = await open(t, (peer, { command }, connection) => {
    if (connection > 0) order.push(command);
    if (connection > 0 || command !== CMD.flush) return false;
    peer.socket.destroy();
    return true;
  });
  await write(device, 0, scatter(512));
  assert.equal((await flush(device)).result, Result.Success);
  assert.deepEqual(order, [CMD.write, CMD.flush]);
});

test("when that cannot be written again, nothing more is written", LIMIT, async (t) => {
  const { device, lines } = await open(t, (peer, { command, cookie }, connection) => {
    if (connection === 0 && command === CMD.read) peer.socket.destroy();
    else if (connection > 0 && command === CMD.write) peer.simple(cookie, 28);
    else return false;
    return true;
  });
  await write(device, 0, scatter(512));
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  assert.match(lines.join("\n"), /a write that was acknowledged cannot be repeated/);
});

test(
  "a flush that was under way when data were lost fails, though the next server flushes",
  LIMIT,
  async (t) => {
    const { device } = await open(t, (peer, { command, cookie }, connection) => {
      if (connection === 0 && command === CMD.flush) return leave(peer);
      if (connection === 0 || command !== CMD.write) return false;
      peer.simple(cookie, 28);
      return true;
    });
    await write(device, 0, scatter(512));
    const { result, error } = await flush(device);
    assert.equal(result, Result.Failure);
    assert.match(error?.message ?? "", /ENOSPC/);
  },
);

test("of two flushes under way, the second does not succeed when the first has failed", LIMIT, async (t) => {
  const cookies: bigint[] = [];
  const { device } = await open(t, (peer, { command, cookie }) => {
    if (command !== CMD.flush) return false;
    cookies.push(cookie);
    if (cookies.length === 2) {
      peer.simple(cookies[0], 5);
      peer.simple(cookies[1]);
    }
    return true;
  });
  await write(device, 0, scatter(512));
  const outcomes = await Promise.all([flush(device), flush(device)]);
  assert.deepEqual(
    outcomes.map(({ result }) => result),
    [Result.Failure, Result.Failure],
  );
});

test(
  "what is not flushed when the disk is closed is flushed, also over another connection",
  LIMIT,
  async (t) => {
    const order: [number, number][] = [];
    const { device } = await open(t, (peer, { command }, connection) => {
      order.push([connection, command]);
      return connection === 0 && command === CMD.flush && leave(peer);
    });
    await write(device, 0, scatter(512));
    await device.close();
    assert.equal(device.flushErrno, 0);
    assert.deepEqual(order, [
      [0, CMD.write],
      [0, CMD.flush],
      [1, CMD.write],
      [1, CMD.flush],
    ]);
  },
);

test(
  "a last flush that is refused, or not answered in time, is a flush that has failed",
  LIMIT,
  async (t) => {
    for (const answer of [(peer: Peer, { cookie }: Asked) => peer.simple(cookie, 28), () => {}]) {
      const { device, lines } = await open(
        t,
        (peer, asked) => {
          if (asked.command !== CMD.flush) return false;
          answer(peer, asked);
          return true;
        },
        { reconnectMs: 300 },
      );
      await write(device, 0, scatter(512));
      await device.close();
      assert.notEqual(device.flushErrno, 0);
      assert.match(lines.at(-1) ?? "", /the last writes cannot be flushed/);
    }
  },
);

test("writing again may take longer than a request waits, while the server answers", LIMIT, async (t) => {
  const { device } = await open(
    t,
    async (peer, { command }, connection) => {
      if (connection > 0 && command === CMD.write) await pause(150);
      return connection === 0 && command === CMD.read && leave(peer);
    },
    { reconnectMs: 600 },
  );
  for (let i = 0; i < 8; i++) await write(device, i * 512, scatter(512));
  await read(device, 0, scatter(512));
  await until("there is another connection", () => device.outage === null);
});

test(
  "malformed bytes in one segment with the handshake's end, or with the last reply of writes again, break it",
  LIMIT,
  async (t) => {
    const both = (peer: Peer, say: () => void): void => {
      peer.socket.cork();
      say();
      peer.say(Buffer.alloc(64, 1));
      peer.socket.uncork();
    };
    const connections: number[] = [];
    const lines: string[] = [];
    let device: NbdDevice | null = null;
    t.after(() => device?.close());
    const server = await scripted(t, async (peer, connection) => {
      const answer = peer.answer.bind(peer);
      peer.answer = (option, type, data) => {
        if ((connection === 0 || connection === 2) && option === 7 && type === 1)
          both(peer, () => answer(option, type, data));
        else answer(option, type, data);
      };
      await peer.handshake({ size: SIZE });
      await honest(peer, pattern(SIZE), ({ command, cookie }) => {
        connections.push(connection);
        if (connection === 1 && command === CMD.read) return leave(peer);
        if (connection !== 3 || command !== CMD.write) return false;
        both(peer, () => peer.simple(cookie));
        return true;
      });
    });
    device = await openNbd(server.uri, { readOnly: false, warn: (line) => void lines.push(line) });
    assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
    assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
    assert.deepEqual(connections, [1, 1, 3, 4, 4], lines.join("\n"));
    assert.equal(lines.filter((line) => /connected again/.test(line)).length, 2, lines.join("\n"));
  },
);

test("a server that stalls while that is written again does not keep others waiting", LIMIT, async (t) => {
  let stalls = true;
  const { device } = await open(
    t,
    (peer, { command }, connection) => {
      if (connection > 0) return stalls;
      return command === CMD.read && leave(peer);
    },
    { reconnectMs: 500 },
  );
  await write(device, 0, scatter(512));
  assert.match((await read(device, 0, scatter(512))).error?.message ?? "", /no answer within 0\.5 s/);
  stalls = false;
  await until("there is another connection", () => device.outage === null);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
});

const OTHERS: Record<string, Partial<Offer>> = {
  "a smaller disk": { size: SIZE / 2 },
  "one that only reads": { flags: 1 | 2 | 4 | 8 | 32 },
  "one without flush": { flags: 1 | 8 | 32 },
  "larger blocks": { blocks: [4096, 4096, MIB] },
  "other replies": { structured: false },
};
for (const [what, offer] of Object.entries(OTHERS)) {
  test(`a server that comes back with ${what} is not taken for the same`, LIMIT, async (t) => {
    const { device } = await open(
      t,
      (peer, _, connection) => connection === 0 && leave(peer),
      { reconnectMs: 300 },
      (connection) => (connection === 0 ? {} : offer),
    );
    const { error } = await read(device, 0, scatter(512));
    assert.match(error?.message ?? "", /the server offers a different disk/);
  });
}

test(
  "a server that is not taken for the same, and does not hang up, costs no descriptor",
  LIMIT,
  async (t) => {
    let refused: Promise<void> | null = null;
    const server = await scripted(t, async (peer, connection) => {
      await peer.handshake({ size: connection === 0 ? SIZE : SIZE / 2 });
      if (connection === 0) {
        await peer.request();
        peer.socket.destroy();
        return;
      }
      // It never says goodbye, and tells by what it says whether the other end is still there.
      peer.socket.allowHalfOpen = true;
      const timer = setInterval(() => peer.say(Buffer.alloc(1)), 100);
      const gone = new Promise<void>((resolve) => peer.socket.once("close", () => resolve()));
      refused ??= gone;
      await gone;
      clearInterval(timer);
    });
    const device = await openNbd(server.uri, {
      readOnly: false,
      warn: () => {},
      patience: { reconnectMs: 300 },
    });
    t.after(() => device.close());
    assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
    await until("it is refused", () => refused !== null);
    await refused;
  },
);

test("a server that comes back with a larger disk has grown it", LIMIT, async (t) => {
  const { device } = await open(
    t,
    (peer, _, connection) => connection === 0 && leave(peer),
    {},
    (connection) => ({ size: connection === 0 ? SIZE / 2 : SIZE }),
  );
  assert.equal(device.size, SIZE / 2);
  assert.equal(await device.refreshSize(), false);
  await read(device, 0, scatter(512));
  assert.equal(await device.refreshSize(), true);
  assert.equal(device.size, SIZE);
});

test("a write that is answered before it is sent is done when it is sent", LIMIT, async (t) => {
  let resume: (() => void) | null = null as (() => void) | null;
  const { uri } = await scripted(t, async (peer) => {
    await peer.handshake({ size: 64 * MIB });
    const header = await peer.take(28);
    peer.socket.pause();
    peer.simple(header.readBigUInt64BE(8));
    resume = () => peer.socket.removeAllListeners("data").resume();
  });
  const device = await openNbd(uri, { readOnly: false, warn: () => {}, patience: { reconnectMs: 300 } });
  t.after(() => device.close());
  let ended = false;
  const written = write(device, 0, scatter(16 * MIB)).then(({ result }) => {
    ended = true;
    return result;
  });
  await until("the server has answered", () => resume !== null);
  await pause(200);
  assert.equal(ended, false);
  resume?.();
  assert.equal(await written, Result.Success);
});

test("closing does not wait for a server that is gone", LIMIT, async (t) => {
  const { device } = await open(t, leave, { reconnectMs: 100 }, (connection) =>
    connection === 0 ? {} : null,
  );
  await read(device, 0, scatter(512));
  await device.close();
});
