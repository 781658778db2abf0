/** Answers that were taken from Debian's xenstored 4.17, byte for byte; checked on ours and, if installed, on it. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { encodeMessage, MessageType as M } from "../../host/platform/xenstore/wire.js";
import { oracleMissing, startOracle } from "./oracle.js";
import { Peer } from "./peer.js";

async function golden(socketPath: string): Promise<void> {
  const peer = await Peer.overSocket(socketPath);
  const watcher = await Peer.overSocket(socketPath);
  let id = 0;
  /** Sends, and compares the whole answer. */
  const expect = async (type: number, payload: string, answer: string | RegExp, transaction = 0) => {
    const got = await peer.request(type, payload, transaction);
    const error = typeof answer === "string" && /^<.*>$/.test(answer);
    assert.equal(got.requestId, ++id);
    assert.equal(got.transactionId, transaction);
    assert.equal(
      got.type,
      error ? M.error : type,
      `type ${type}, ${JSON.stringify(payload)}: ${got.payload}`,
    );
    if (typeof answer !== "string") assert.match(got.payload, answer);
    else assert.equal(got.payload, error ? `${answer.slice(1, -1)}\0` : answer);
  };
  try {
    await expect(M.write, "/a/b\0hello", "OK\0");
    await expect(M.read, "/a/b\0", "hello");
    await expect(M.read, "/a/zz\0", "<ENOENT>");
    await expect(M.directory, "/a\0", "b\0");
    await expect(M.directory, "/a/b\0", "");

    await expect(M.watch, "/a\0tok\0", "OK\0");
    assert.equal(await watcher.ask(M.watch, "/a\0tok\0"), "OK\0");
    await expect(M.watch, "/a\0tok\0", "<EEXIST>");
    await expect(M.watch, "/a\0", "<EINVAL>");
    await expect(M.unwatch, "/a\0other\0", "<ENOENT>");

    await expect(M.transactionStart, "\0", "1\0");
    await expect(M.write, "/a/b\0inside", "OK\0", 1);
    await expect(M.write, "/a/b\0outside", "OK\0");
    await expect(M.transactionEnd, "T\0", "<EAGAIN>", 1);
    await expect(M.read, "/a/b\0", "outside");
    await expect(M.write, "/a/b\0again", "OK\0");

    await expect(M.setPermissions, "/a/b\0n0\0r1\0", "OK\0");
    await expect(M.getPermissions, "/a/b\0", "n0\0r1\0");
    await expect(M.read, "/a//b\0", "<EINVAL>");
    await expect(M.read, "/a/\0", "<EINVAL>");
    await expect(M.remove, "/nope\0", "OK\0");
    await expect(M.mkdir, "/a/dir\0", "OK\0");
    await expect(99, "\0", "<ENOSYS>");
    await expect(23, "\0", "<ENOSYS>");
    await expect(M.read, "/a\0", "<ENOENT>", 12345);
    await expect(M.directoryPart, "/a\0" + "0\0", /^[0-9]+\0b\0dir\0\0$/);

    const events = await watcher.takeEvents();
    assert.deepEqual(events, ["/a\0tok\0", "/a/b\0tok\0", "/a/b\0tok\0", "/a/b\0tok\0", "/a/dir\0tok\0"]);

    await expect(M.watch, "@releaseDomain\0rel\0", "OK\0");
    await expect(M.introduce, "1\0" + "291\0" + "11\0", "OK\0");
    await expect(M.isDomainIntroduced, "1\0", "T\0");
    await expect(M.getDomainPath, "1\0", "/local/domain/1\0");
    await expect(M.release, "1\0", "OK\0");
    await expect(M.isDomainIntroduced, "1\0", "F\0");
    const special = (await peer.takeEvents()).filter((event) => event.startsWith("@"));
    assert.deepEqual(special, ["@releaseDomain\0rel\0", "@releaseDomain\0rel\0"]);

    const answered = peer.order.indexOf(M.watch);
    assert.equal(peer.order.indexOf(M.watchEvent), answered + 1, "OK, then the first event");

    const header = encodeMessage(M.read, 1, 0, Buffer.alloc(0));
    header.writeUInt32LE(4097, 12);
    watcher.sendBytes(header);
    await watcher.closed;
    assert.deepEqual(watcher.order.slice(-1), [M.getDomainPath], "closed without an answer");
  } finally {
    peer.close();
    watcher.close();
  }
}

test("golden answers, ours", { timeout: 120_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  const server = await XenstoreServer.listen(join(dir, "socket"));
  try {
    await golden(join(dir, "socket"));
  } finally {
    await server.close();
    rmSync(dir, { recursive: true });
  }
});

test("golden answers, C xenstored", { skip: oracleMissing(), timeout: 120_000 }, async () => {
  const oracle = await startOracle();
  try {
    await golden(oracle.socketPath);
  } finally {
    await oracle.stop();
  }
});
