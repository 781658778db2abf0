/** xenstore over a device that is written and read like /dev/xen/xenbus; behind it, the loopback machine's xenstored. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LoopbackHost, xenstoreSocket } from "../../host/platform/loopback/host.js";

const peer = fileURLToPath(new URL("./device-peer.js", import.meta.url));

const HEADER_BYTES = 16;

/**
 * What the kernel does with the requests that are written to it: it sends each a little later, out of one buffer for the
 * bodies of all. Calls `send` with each.
 */
function kernelsBuffer(send: (message: Buffer) => void): (bytes: Buffer) => void {
  const shared = Buffer.alloc(4096);
  let unread: Buffer = Buffer.alloc(0);
  return (bytes) => {
    unread = Buffer.concat([unread, bytes]);
    while (unread.length >= HEADER_BYTES && unread.length >= HEADER_BYTES + unread.readUInt32LE(12)) {
      const length = unread.readUInt32LE(12);
      const header = Buffer.from(unread.subarray(0, HEADER_BYTES));
      unread.copy(shared, 0, HEADER_BYTES, HEADER_BYTES + length);
      unread = unread.subarray(HEADER_BYTES + length);
      setTimeout(() => send(Buffer.concat([header, shared.subarray(0, length)])), 1);
    }
  };
}

test("requests, transactions, watches and the size limit of /dev/xen/xenbus", {
  timeout: 60_000,
}, async () => {
  const host = await LoopbackHost.start();
  const child = spawn(process.execPath, [peer], { stdio: ["ignore", "pipe", "inherit", "pipe"] });
  const device = child.stdio[3] as Socket;
  const xenstored = connect(xenstoreSocket(host.directory, 0));
  let largest = 0;
  const take = kernelsBuffer((message) => {
    largest = Math.max(largest, message.length);
    xenstored.write(message);
  });
  device.on("data", take);
  // In pieces of 7 bytes, as a slow ring would give them.
  xenstored.on("data", (bytes) => {
    for (let at = 0; at < bytes.length; at += 7) device.write(bytes.subarray(at, at + 7));
  });
  try {
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const next = async (): Promise<unknown> => JSON.parse((await lines.next()).value);
    assert.deepEqual(await next(), ["read", "12"]);
    assert.deepEqual(await next(), ["size", "written"]);
    assert.deepEqual(await next(), ["size", "xenstore: write /big: E2BIG"]);
    assert.equal(largest, 4096, "the largest message, header included");
    const rest = [await next(), await next()];
    assert.deepEqual(
      new Set(rest.map((entry) => JSON.stringify(entry))),
      new Set(['["ready",null]', '["changed","/a"]']),
    );
    await host.xenstore.write("/a/c", "1");
    assert.deepEqual(await next(), ["changed", "/a/c"]);
    // A write and eight reads at once, whose answers come with an event between them.
    for (const [i, letter] of [..."abcdefgh"].entries()) await host.xenstore.write(`/at/once/${i}`, letter);
    await host.xenstore.write("/a/go", "1");
    assert.deepEqual(await next(), ["changed", "/a/go"]);
    for (let times = 0; times < 3; times++) {
      assert.deepEqual(await next(), ["changed", "/a/own"]);
      assert.deepEqual(await next(), ["at once", "abcdefgh"]);
    }
    device.write(Buffer.alloc(16, 0xff));
    assert.match(JSON.stringify(await next()), /"lost".*xenstore protocol error/);
  } finally {
    child.kill();
    xenstored.destroy();
    await host.close();
  }
});
