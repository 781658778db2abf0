/** What our server does beyond answering as xenstored does: domains, sockets, quotas, clients that misbehave. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { encodeMessage, encodeStrings, MessageType as M } from "../../host/platform/xenstore/wire.js";
import { Peer } from "./peer.js";

interface Fixture {
  readonly dir: string;
  readonly server: XenstoreServer;
  readonly toolstack: Peer;
  /** Introduces a domain, gives it a directory and connects as it. */
  guest(domid: number): Promise<Peer>;
}

async function fixture(t: TestContext): Promise<Fixture> {
  const dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  const server = await XenstoreServer.listen(join(dir, "socket"));
  const toolstack = await Peer.overSocket(join(dir, "socket"));
  t.after(async () => {
    toolstack.close();
    await server.close();
    rmSync(dir, { recursive: true });
  });
  const guest = async (domid: number) => {
    server.introduce(domid);
    await server.listenFor(domid, join(dir, `guest-${domid}`));
    await toolstack.ask(M.mkdir, `/local/domain/${domid}\0`);
    await toolstack.ask(M.setPermissions, `/local/domain/${domid}\0n${domid}\0`);
    const peer = await Peer.overSocket(join(dir, `guest-${domid}`));
    t.after(() => peer.close());
    return peer;
  };
  return { dir, server, toolstack, guest };
}

const timeout = 20_000;

test("a guest sees and changes what it is allowed to", { timeout }, async (t) => {
  const { toolstack, guest } = await fixture(t);
  const one = await guest(1);
  const two = await guest(2);
  assert.equal(await one.ask(M.write, "data/x\0v"), "OK\0");
  assert.equal(await toolstack.ask(M.getPermissions, "/local/domain/1/data/x\0"), "n1\0");
  assert.equal(await two.ask(M.read, "/local/domain/1/data/x\0"), "<EACCES>");
  assert.equal(await two.ask(M.read, "/local/domain/1/nothing\0"), "<EACCES>");
  assert.equal(await one.ask(M.setPermissions, "data/x\0n1\0r2\0"), "OK\0");
  assert.equal(await two.ask(M.read, "/local/domain/1/data/x\0"), "v");
  assert.equal(await two.ask(M.write, "/local/domain/1/data/x\0w"), "<EACCES>");
  assert.equal(await one.ask(M.setPermissions, "data/x\0n2\0"), "<EPERM>");
  assert.equal(await one.ask(M.write, "/new\0v"), "<EACCES>");
  assert.equal(await one.ask(M.introduce, "3\0" + "1\0" + "1\0"), "<EACCES>");
});

test("a watch tells nothing of what its owner may not read (XSA-115)", { timeout }, async (t) => {
  const { toolstack, guest } = await fixture(t);
  const one = await guest(1);
  await one.ask(M.watch, "/\0all\0");
  await one.ask(M.watch, "@releaseDomain\0gone\0");
  await one.takeEvents();
  await toolstack.ask(M.write, "/secret/key\0v");
  await toolstack.ask(M.write, "/local/domain/1/news\0v");
  await guest(2);
  await toolstack.ask(M.release, "2\0");
  assert.deepEqual(await one.takeEvents(), ["/local/domain/1/news\0all\0"]);
});

test("quotas limit guests only", { timeout }, async (t) => {
  const { toolstack, guest } = await fixture(t);
  const one = await guest(1);
  const many = async (peer: Peer, count: number, request: (i: number) => Promise<string>) => {
    const answers = await Promise.all(Array.from({ length: count }, (_, i) => request(i)));
    await peer.takeEvents();
    return answers.filter((answer) => answer.startsWith("<"));
  };
  const nodes = (peer: Peer) => many(peer, 1100, (i) => peer.ask(M.mkdir, `n/${i % 20}/${i}\0`));
  const watches = (peer: Peer) => many(peer, 140, (i) => peer.ask(M.watch, `w\0${i}\0`));
  const transactions = (peer: Peer) => many(peer, 14, () => peer.ask(M.transactionStart, "\0"));
  const value = `big\0${"v".repeat(2048)}`;

  assert.equal(await one.ask(M.write, value), "<ENOSPC>");
  assert.deepEqual(await watches(one), new Array(11).fill("<E2BIG>"));
  assert.deepEqual(await transactions(one), new Array(3).fill("<ENOSPC>"));
  assert.deepEqual(new Set(await nodes(one)), new Set(["<ENOSPC>"]));
  assert.equal(await one.ask(M.write, "n/0/0\0still writable"), "OK\0");
  assert.equal(await one.ask(M.remove, "n\0"), "OK\0");
  assert.equal(await one.ask(M.mkdir, "room/again\0"), "OK\0");

  assert.equal(await toolstack.ask(M.write, value), "OK\0");
  for (const none of [nodes, watches, transactions]) assert.deepEqual(await none(toolstack), []);
});

test("a transaction cannot get around the quota of nodes", { timeout }, async (t) => {
  const { guest } = await fixture(t);
  const one = await guest(1);
  const parts = ["a", "b", "c"];
  for (const part of parts) await one.ask(M.mkdir, `${part}\0`);
  const ids = [];
  for (const part of parts) {
    const id = Number((await one.ask(M.transactionStart, "\0")).slice(0, -1));
    for (let i = 0; i < 400; i++) await one.ask(M.mkdir, `${part}/${i % 10}/${i}\0`, id);
    ids.push(id);
  }
  const ends = [];
  for (const id of ids) ends.push(await one.ask(M.transactionEnd, "T\0", id));
  assert.deepEqual(ends, ["OK\0", "OK\0", "<ENOSPC>"]);
});

test("release takes all of a domain but its nodes", { timeout }, async (t) => {
  const { dir, server, toolstack, guest } = await fixture(t);
  await toolstack.ask(M.watch, "@introduceDomain\0in\0");
  await toolstack.ask(M.watch, "@releaseDomain\0out\0");
  await toolstack.takeEvents();
  const one = await guest(1);
  await one.ask(M.write, "x\0v");
  await one.ask(M.watch, "x\0t\0");
  server.introduce(1);
  assert.deepEqual(await toolstack.takeEvents(), ["@introduceDomain\0in\0"]);
  server.release(1);
  await one.closed;
  assert.deepEqual(await toolstack.takeEvents(), ["@releaseDomain\0out\0"]);
  server.release(1);
  server.release(0);
  assert.deepEqual(await toolstack.takeEvents(), []);
  assert.equal(await toolstack.ask(M.read, "/local/domain/1/x\0"), "v");
  assert.equal(existsSync(join(dir, "guest-1")), false);
  await guest(1);
});

test("sockets are private; stale ones are replaced, others are not", { timeout }, async (t) => {
  const { dir } = await fixture(t);
  const socket = join(dir, "socket");
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  await assert.rejects(XenstoreServer.listen(socket), /socket: another process listens there/);
  writeFileSync(join(dir, "file"), "");
  await assert.rejects(XenstoreServer.listen(join(dir, "file")), /file exists and is not a socket/);
  await assert.rejects(XenstoreServer.listen(join(dir, "x".repeat(120))), /too long for a socket/);

  const stale = join(dir, "stale");
  const script = `require("net").createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 9))`;
  await assert.rejects(promisify(execFile)(process.execPath, ["-e", script]));
  assert.ok(existsSync(stale));
  const server = await XenstoreServer.listen(stale);
  await server.close();
  assert.equal(existsSync(stale), false);
});

test("close drops everybody", { timeout }, async (t) => {
  const { server, toolstack, guest } = await fixture(t);
  const one = await guest(1);
  await server.close();
  await Promise.all([toolstack.closed, one.closed]);
});

/** A client that watches /e with a long token and then does not read. */
async function deafClient(dir: string): Promise<Socket> {
  const socket = connect(join(dir, "socket"));
  socket.on("error", () => {});
  socket.write(encodeMessage(M.watch, 1, 0, encodeStrings("/e", "t".repeat(1000))));
  await once(socket, "readable");
  return socket;
}

test("events wait merged for a client that does not read", { timeout }, async (t) => {
  const { dir, toolstack } = await fixture(t);
  const deaf = await deafClient(dir);
  const events = 3000;
  for (let i = 0; i < events; i++) await toolstack.request(M.write, "/e/same\0v");
  await toolstack.request(M.write, "/e/last\0v");
  const got: Buffer[] = [];
  deaf.on("data", (chunk) => got.push(chunk));
  while (!Buffer.concat(got.slice(-2)).includes("/e/last")) await sleep(2);
  const bytes = Buffer.concat(got).length;
  assert.ok(bytes < (events * 1000) / 2, `${bytes} bytes`);
  deaf.destroy();
});

test("a client that never reads is given up once its events are too many", { timeout }, async (t) => {
  const { dir, toolstack } = await fixture(t);
  const deaf = await deafClient(dir);
  for (let i = 0; i < 2000; i++) await toolstack.request(M.write, `/e/${i % 40}/${i}\0v`);
  const closed = once(deaf, "close");
  deaf.resume();
  await closed;
  assert.equal(await toolstack.ask(M.read, "/e/1/1\0"), "v");
});

test("a client that asks without reading has to wait, and gets every answer", { timeout }, async (t) => {
  const { dir, toolstack } = await fixture(t);
  await toolstack.ask(M.write, `/v\0${"v".repeat(4000)}`);
  const slow = connect(join(dir, "socket"));
  slow.pause();
  const count = 20_000;
  const requests: Buffer[] = [];
  for (let i = 0; i < count; i++) requests.push(encodeMessage(M.read, i, 0, encodeStrings("/v")));
  slow.write(Buffer.concat(requests));
  // The server has its turns meanwhile, as others get their answers.
  for (let i = 0; i < 100; i++) await toolstack.ask(M.read, "/v\0");
  assert.ok(slow.writableLength > 0, "80 MB of answers would pile up");
  let bytes = 0;
  await new Promise<void>((resolve) => {
    slow.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes >= count * 4016) resolve();
    });
    slow.resume();
  });
  assert.equal(bytes, count * 4016);
  slow.destroy();
});

test("a socket that somebody else holds is left alone", { timeout }, async () => {
  const dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(join(dir, "s"), resolve));
  await assert.rejects(XenstoreServer.listen(join(dir, "s")));
  assert.ok(existsSync(join(dir, "s")));
  await new Promise((resolve) => other.close(resolve));
  rmSync(dir, { recursive: true });
});
