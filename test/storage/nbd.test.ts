/** An NBD server's disk by qemu-storage-daemon: what a guest asks is what the server is asked. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openNbd } from "../../host/storage/helper/nbd.js";
import { absent } from "../support/programs.js";
import { discard, fill, flush, gather, pattern, read, scatter, write } from "./helpers.js";
import { type Asked, CMD, honest, type Offer, type Peer, scripted } from "./nbd-server.js";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const HOW = { timeout: 120_000, skip: absent("qemu-storage-daemon") };

/** Opens the disk of a server that answers requests as the test does. */
async function open(
  t: TestContext,
  disk: Buffer,
  answer: (peer: Peer, asked: Asked) => boolean,
  offer: Partial<Offer> = {},
): Promise<BlockDevice> {
  let device: BlockDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const { uri } = await scripted(t, async (peer) => {
    await peer.handshake({ size: disk.length, ...offer });
    await honest(peer, disk, (asked) => answer(peer, asked));
  });
  device = await openNbd(uri, { readOnly: false, warn: () => {} });
  return device;
}

for (const structured of [true, false]) {
  test(`reads, writes and trims, ${structured ? "structured" : "simple"} replies`, HOW, async (t) => {
    const disk = Buffer.alloc(SIZE);
    const simply = (peer: Peer, { command, cookie, position, length }: Asked): boolean => {
      if (structured || command !== CMD.read) return false;
      peer.simple(cookie, 0, disk.subarray(position, position + length));
      return true;
    };
    const device = await open(t, disk, simply, { structured });
    const data = pattern(MIB + 4096 + 512);
    const lengths = [4096, 512, 512 * 1024, 4096, 512 * 1024 - 4096];
    assert.equal((await write(device, 3584, fill(scatter(...lengths), data))).result, Result.Success);
    assert.deepEqual(disk.subarray(3584, 3584 + data.length), data);
    const back = scatter(...lengths.toReversed());
    assert.equal((await read(device, 3584, back)).result, Result.Success);
    assert.deepEqual(gather(back), data);
    assert.equal((await discard(device, 0, 8192)).result, Result.Success);
    assert.ok(disk.subarray(0, 8192).every((byte) => byte === 0));
    assert.deepEqual(disk.subarray(8192, 12288), data.subarray(8192 - 3584, 12288 - 3584));
    assert.equal((await flush(device)).result, Result.Success);
  });
}

test("a server without flush or trim is not asked for them", HOW, async (t) => {
  const seen: number[] = [];
  const note = (_: Peer, { command }: Asked): boolean => {
    if (command !== CMD.disc) seen.push(command);
    return false;
  };
  const device = await open(t, Buffer.alloc(SIZE), note, { flags: 1 });
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Success);
  await discard(device, 0, 512);
  assert.deepEqual(seen, [CMD.write]);
});

test("an export's size and sectors are the guest's", HOW, async (t) => {
  for (const [offer, size, sectorSize] of [
    [{ size: MIB + 700 }, MIB + 512, 512],
    [{ size: MIB, blocks: [1, 512, MIB] }, MIB, 512],
    [{ size: MIB, blocks: [4096, 65536, MIB] }, MIB, 4096],
  ] as const) {
    const device = await open(t, Buffer.alloc(offer.size), () => false, offer);
    assert.deepEqual([device.size, device.sectorSize], [size, sectorSize]);
    assert.equal((await read(device, size - sectorSize, scatter(sectorSize))).result, Result.Success);
    assert.equal((await read(device, size, scatter(sectorSize))).result, Result.Failure);
  }
});

test("a disk that is only read is not written", HOW, async (t) => {
  const { uri } = await scripted(t, async (peer) => {
    await peer.handshake({ size: MIB, flags: 1 | 2 });
    await honest(peer, Buffer.alloc(MIB));
  });
  const device = await openNbd(uri, { readOnly: true, warn: () => {} });
  assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  await device.close();
  assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
});
