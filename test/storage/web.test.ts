/** A web server's file, by nbdkit and qemu-storage-daemon: its bytes, and a server that refuses, goes, stalls and comes back. */
import assert from "node:assert/strict";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import type { Patience } from "../../host/storage/patience.js";
import { absent } from "../support/programs.js";
import { until } from "../vbd/harness.js";
import { directory, gather, pattern, read, scatter, write } from "./helpers.js";
import { webServer } from "./web-server.js";

const MIB = 1 << 20;
const HOW = { timeout: 120_000, skip: absent("nbdkit", "qemu-storage-daemon") };

async function open(
  t: TestContext,
  url: string,
  patience: Partial<Patience> = {},
): Promise<{ device: BlockDevice; lines: string[] }> {
  const lines: string[] = [];
  const warn = (line: string): void => void lines.push(line);
  const device = await openDisk(url, { readOnly: true, warn, patience });
  t.after(() => device.close());
  return { device, lines };
}

async function reads(device: BlockDevice, position: number, wanted: Uint8Array): Promise<void> {
  const to = scatter(wanted.length);
  const { result, error } = await read(device, position, to);
  assert.equal(result, Result.Success, String(error));
  assert.deepEqual(gather(to), Buffer.from(wanted));
}

test("its bytes are the file's, up to the last whole sector", HOW, async (t) => {
  const file = pattern(2 * MIB + 700);
  const { device } = await open(t, (await webServer(t, file)).url);
  assert.equal(device.size, 2 * MIB + 512);
  assert.match(device.through ?? "", /^nbdkit, process [0-9]+, by qemu-storage-daemon, process [0-9]+/);
  await reads(device, MIB, file.subarray(MIB, 2 * MIB));
  const positions = Array.from({ length: 512 }, (_, i) => 4096 * i + 512);
  await Promise.all(positions.map((at) => reads(device, at, file.subarray(at, at + 4096))));
  assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
});

test("it is refused to who wants to write, and in curl's words where the server has none", HOW, async (t) => {
  const missing = await webServer(t, Buffer.alloc(0), (_, response) => {
    response.writeHead(404).end();
    return true;
  });
  const ranges = await webServer(t, Buffer.alloc(0), (_, response) => {
    response.writeHead(200, { "content-length": MIB }).end();
    return true;
  });
  await assert.rejects(openDisk(missing.url, { readOnly: false }), /read-only; attach it read-only/);
  const opened = (url: string): Promise<BlockDevice> => openDisk(url, { readOnly: true, warn: () => {} });
  await assert.rejects(opened(missing.url), /^Error: http:\S+: nbdkit cannot serve it: .*404/);
  await assert.rejects(opened(ranges.url), /cannot serve it: .*does not support .?range/);
  await assert.rejects(opened("http://127.0.0.1:1/disk.img"), /cannot serve it: .*[Cc]onnect/);
});

test(
  "a server that is restarted costs a pause, and is asked again for what it has not given",
  HOW,
  async (t) => {
    const file = pattern(4 * MIB);
    const server = await webServer(t, file);
    const { device, lines } = await open(t, server.url);
    await reads(device, 0, file.subarray(0, 4096));
    await server.stop();
    const reading = reads(device, 2 * MIB, file.subarray(2 * MIB, 2 * MIB + 4096));
    await until("it is waited for", () => device.outage);
    assert.match(device.outage?.reason ?? "", /away/);
    await until("it is tried again", () => lines.some((line) => /cannot serve|[Cc]onnect/.test(line)));
    await server.start();
    await reading;
    assert.equal(device.outage, null);
    assert.match(lines.join("\n"), /the web server has not given what was asked of it; 1 requests wait/);
  },
);

test("while it is away, nbdkit says why once", HOW, async (t) => {
  const server = await webServer(t, pattern(MIB));
  const { device, lines } = await open(t, server.url, { reconnectMs: 1500 });
  await server.stop();
  const { result, error } = await read(device, 0, scatter(512));
  assert.equal(result, Result.Failure);
  assert.match(String(error), /no connection|no answer within 1\.5 s/);
  const why = lines.filter((line) => /^\S+: nbdkit: .*HEAD/.test(line));
  assert.equal(why.length, 1, lines.join("\n"));
});

test(
  "a server that refuses a part of the file for good costs an error in time, and not the rest",
  HOW,
  async (t) => {
    const file = pattern(4 * MIB);
    const bad = ({ method, headers }: IncomingMessage): boolean =>
      method === "GET" && Number(/^bytes=([0-9]+)/.exec(headers.range ?? "")?.[1]) >= 3 * MIB;
    const { url } = await webServer(t, file, (request, response) => {
      if (bad(request)) response.writeHead(503).end();
      return bad(request);
    });
    const { device } = await open(t, url, { reconnectMs: 1000 });
    const { result, error } = await read(device, 3 * MIB, scatter(4096));
    assert.equal(result, Result.Failure);
    assert.match(String(error), /within 1 s after/);
    await until("it is connected again", () => device.outage === null);
    await reads(device, 0, file.subarray(0, 4096));
  },
);

test("a server that stalls is given up in time", HOW, async (t) => {
  let stalls = false;
  const file = pattern(MIB);
  const { url } = await webServer(t, file, ({ method }) => stalls && method === "GET");
  const { device } = await open(t, url, { reconnectMs: 1000 });
  stalls = true;
  const reading = reads(device, 0, file.subarray(0, 4096));
  await until("it is given up", () => device.outage);
  stalls = false;
  await reading;
});

test("a user's password comes from a file", HOW, async (t) => {
  const file = pattern(MIB);
  const wanted = `Basic ${Buffer.from("a user:horse").toString("base64")}`;
  const { url } = await webServer(t, file, ({ headers }, response) => {
    if (headers.authorization === wanted) return false;
    response.writeHead(401).end();
    return true;
  });
  const key = join(directory(t), "key");
  writeFileSync(key, "horse\n", { mode: 0o600 });
  const urlOf = (user: string): string => url.replace("http://", `http://${user}@`);
  const { device } = await open(t, `keyfile:${key}:${urlOf("a%20user")}`);
  await reads(device, 0, file.subarray(0, 4096));
  const pid = /^nbdkit, process ([0-9]+)/.exec(device.through ?? "")?.[1];
  assert.ok(!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("horse"));
  await assert.rejects(open(t, urlOf("a%20user:horse")), (error: Error) => {
    assert.match(error.message, /has a password, which all users would see: write keyfile:FILE:https:/);
    return !error.message.includes("horse");
  });
  for (const odd of ["a:ho@rse", "a:ho/rse", "a:ho/@rse"])
    await assert.rejects(open(t, urlOf(odd)), (error: Error) => {
      assert.match(error.message, /has a password/);
      return !/ho|rse/.test(error.message);
    });
  await assert.rejects(open(t, `keyfile:${key}:${url}`), /names no user for the password/);
  await assert.rejects(open(t, urlOf("a%zz")), /has a user that is badly encoded/);
  await assert.rejects(open(t, `keyfile:${key}:${urlOf("other")}`), /nbdkit cannot serve it: .*401/);
  chmodSync(key, 0o644);
  await assert.rejects(open(t, `keyfile:${key}:${urlOf("a")}`), /open to all users: `chmod o= /);
});
