/** Nothing that a client sends stops the server, or makes it fail in a way that it does not know. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { encodeMessage, MessageType as M, MessageDecoder } from "../../host/platform/xenstore/wire.js";
import { Peer } from "./peer.js";

const RUNS = Number(process.env["XENSTORE_RUNS"] ?? 150);

let dir: string;
let server: XenstoreServer;
let witness: Peer;
/** The server warns of what it did not foresee. */
const warnings: string[] = [];
const onWarning = (warning: Error) => void warnings.push(warning.message);

before(async () => {
  process.on("warning", onWarning);
  dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  server = await XenstoreServer.listen(join(dir, "0"));
  server.introduce(1);
  await server.listenFor(1, join(dir, "1"));
  witness = await Peer.overSocket(join(dir, "0"));
  await witness.ask(M.mkdir, "/local/domain/1\0");
  await witness.ask(M.setPermissions, "/local/domain/1\0n1\0");
});

after(async () => {
  process.off("warning", onWarning);
  witness.close();
  await server.close();
  rmSync(dir, { recursive: true });
});

/** Sends, ends, and returns all that came back. */
function converse(domid: number, chunks: readonly Uint8Array[]): Promise<Buffer> {
  return new Promise((resolve) => {
    const socket = connect(join(dir, `${domid}`));
    const got: Buffer[] = [];
    socket.on("data", (chunk) => got.push(chunk));
    socket.on("error", () => {});
    socket.once("close", () => resolve(Buffer.concat(got)));
    for (const chunk of chunks) socket.write(chunk);
    socket.end();
  });
}

/** The answers are well-formed messages, and the server is alive. */
async function check(bytes: Buffer): Promise<void> {
  const decoder = new MessageDecoder();
  decoder.push(bytes);
  for (let m = decoder.next(); m; m = decoder.next()) {
    assert.ok(m.type <= M.directoryPart, `type ${m.type}`);
  }
  assert.deepEqual(warnings, []);
  assert.equal(await witness.ask(M.getDomainPath, "0\0"), "/local/domain/0\0");
}

const domid = fc.constantFrom(0, 1);
const piece = fc.oneof(
  fc.constantFrom(
    "/",
    "a",
    "/a",
    "/a/b",
    "/local/domain/1",
    "\0",
    "",
    "T",
    "F",
    "0",
    "-1",
    "n0",
    "r1",
    "@",
    "1e9",
  ),
  fc.string({ maxLength: 8 }),
  fc.constant("/a".repeat(1500)),
);
const payload = fc.oneof(
  fc.uint8Array({ maxLength: 64 }),
  fc.array(piece, { maxLength: 5 }).map((parts) => Buffer.from(`${parts.join("\0")}\0`).subarray(0, 4096)),
);
const message = fc
  .tuple(fc.oneof({ weight: 9, arbitrary: fc.nat(24) }, fc.nat(0xffffffff)), fc.nat(), fc.nat(3), payload)
  .map(([type, id, transaction, bytes]) => encodeMessage(type, id, transaction, bytes));

test("random messages", { timeout: 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(domid, fc.array(message, { maxLength: 40 }), async (who, messages) => {
      // Without this, a RELEASE that chance brings would end the guest's socket for good.
      const kept = messages.filter((bytes) => bytes.readUInt32LE(0) !== M.release);
      await check(await converse(who, kept));
    }),
    { numRuns: RUNS },
  );
});

test("random bytes", { timeout: 60_000 }, async () => {
  const bytes = fc.uint8Array({ maxLength: 300 });
  await fc.assert(
    fc.asyncProperty(domid, fc.array(bytes, { maxLength: 5 }), async (who, chunks) => {
      await check(await converse(who, chunks));
    }),
    { numRuns: RUNS },
  );
});
