/** What a daemon that was killed has kept is written to the server before anything else, or the disk is not changed any more. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openNbd } from "../../host/storage/helper/nbd.js";
import { type KeptPlace, KeptWrites } from "../../host/storage/kept-writes.js";
import type { OpenOptions } from "../../host/storage/open.js";
import { Request } from "../../host/storage/vhost-user/abi.js";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { absent } from "../support/programs.js";
import { directory, flush, gather, LIMIT, pattern, read, scatter, write } from "./helpers.js";
import { CMD, honest, scripted } from "./nbd-server.js";
import { vhostServer } from "./vhost-server.js";

const MIB = 1 << 20;

/** A server of a disk: what was written to it, in its order, and how it is opened. */
interface Serving {
  readonly disk: Buffer;
  readonly written: number[];
  open(options: OpenOptions): Promise<BlockDevice>;
}

type Serve = (t: TestContext, refuses: () => boolean) => Promise<Serving>;

const SERVERS: Record<string, Serve> = {
  "vhost-user": async (t, refuses) => {
    const [disk, written] = [Buffer.alloc(MIB), [] as number[]];
    const { target, path } = await vhostServer(t, {
      disk,
      serves(asked, server) {
        if (asked.type !== Request.out) return false;
        written.push(asked.sector * 512);
        if (!refuses()) return false;
        server.answer(asked, 1);
        return true;
      },
    });
    return { disk, written, open: (options) => openVhostUser(target, path, options) };
  },
  nbd: async (t, refuses) => {
    const [disk, written] = [Buffer.alloc(MIB), [] as number[]];
    const { uri } = await scripted(t, async (peer) => {
      await peer.handshake({ size: MIB });
      await honest(peer, disk, ({ command, cookie, position }) => {
        if (command !== CMD.write) return false;
        written.push(position);
        if (refuses()) peer.simple(cookie, 5);
        return refuses();
      });
    });
    return { disk, written, open: (options) => openNbd(uri, options) };
  },
};

/** Three writes, of which the last one covers a part of the first, and one more. */
function leave(t: TestContext, more: readonly number[] = []): KeptPlace {
  const place = { path: join(directory(t), "kept"), identity: "disk", again: true };
  const kept = KeptWrites.create(place, () => {});
  for (const [i, position] of [8192, 0, 8192, ...more].entries())
    assert.ok(kept.add(position, [pattern(4096, i + 1)], 4096));
  kept.close();
  return place;
}

for (const [kind, serve] of Object.entries(SERVERS)) {
  const how = { ...LIMIT, skip: kind === "nbd" && absent("qemu-storage-daemon") };
  test(
    `${kind}: what was kept is written again before anything else, and is flushed once`,
    how,
    async (t) => {
      const kept = leave(t);
      const { disk, written, open } = await serve(t, () => false);
      const lines: string[] = [];
      const options = {
        readOnly: false,
        kept,
        unsettled: true,
        warn: (line: string) => void lines.push(line),
      };
      const device = await open(options);
      const back = scatter(4096);
      assert.equal((await read(device, 8192, back)).result, Result.Success);
      assert.deepEqual(gather(back), pattern(4096, 3));
      assert.deepEqual(written, [8192, 0, 8192]);
      assert.deepEqual(disk.subarray(0, 4096), pattern(4096, 2));
      assert.match(lines.join("\n"), /: 3 writes that the last daemon has not flushed are written again$/);
      assert.equal((await flush(device)).result, Result.Success);
      await device.close();
      const again = await open(options);
      assert.equal((await read(again, 0, back)).result, Result.Success);
      assert.equal(written.length, 3);
      await again.close();
    },
  );

  test(`${kind}: when it cannot be written again, nothing more is written, by any daemon`, how, async (t) => {
    let refuses = true;
    const { written, open } = await serve(t, () => refuses);
    const lines: string[] = [];
    const warn = (line: string): void => void lines.push(line);
    const options = { readOnly: false, kept: leave(t), unsettled: true, warn };
    for (const times of [1, 2]) {
      const device = await open(options);
      assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
      assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
      assert.equal((await flush(device)).result, Result.Failure);
      assert.ok(device.flushErrno);
      assert.deepEqual(written, [8192]);
      const said = times === 1 ? /that was acknowledged cannot be repeated/ : /that was acknowledged is lost/;
      assert.match(lines.at(-1) ?? "", said);
      await device.close();
      refuses = false;
    }
  });

  test(`${kind}: what lies beyond the disk's end cannot be written again`, how, async (t) => {
    const { open } = await serve(t, () => false);
    const options = { readOnly: false, kept: leave(t, [MIB]), unsettled: true, warn: () => {} };
    const device = await open(options);
    assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
    assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
    await device.close();
  });
}
