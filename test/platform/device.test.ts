/** xenstore over a device that is written and read like /dev/xen/xenbus; behind it, the loopback machine's xenstored. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LoopbackHost, xenstoreSocket } from "../../host/platform/loopback/host.js";

const peer = fileURLToPath(new URL("./device-peer.js", import.meta.url));

test("requests, transactions, watches and the size limit of /dev/xen/xenbus", {
  timeout: 60_000,
}, async () => {
  const host = await LoopbackHost.start();
  const child = spawn(process.execPath, [peer], { stdio: ["ignore", "pipe", "inherit", "pipe"] });
  const device = child.stdio[3] as Socket;
  const xenstored = connect(xenstoreSocket(host.directory, 0));
  let largest = 0;
  device.on("data", (bytes) => {
    largest = Math.max(largest, bytes.length);
    xenstored.write(bytes);
  });
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
    device.write(Buffer.alloc(16, 0xff));
    assert.match(JSON.stringify(await next()), /"lost".*xenstore protocol error/);
  } finally {
    child.kill();
    xenstored.destroy();
    await host.close();
  }
});
