/** Debian's xenstore-utils work on our server. libxenstore takes the socket's path from $XENSTORED_PATH. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { absent } from "../support/programs.js";

const skip = absent("xenstore-ls", "xenstore-watch");

let dir: string;
let server: XenstoreServer;
let env: NodeJS.ProcessEnv;

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "xenstore-"));
  server = await XenstoreServer.listen(join(dir, "socket"));
  env = { ...process.env, XENSTORED_PATH: join(dir, "socket") };
});

after(async () => {
  await server.close();
  rmSync(dir, { recursive: true });
});

async function run(program: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(`xenstore-${program}`, args, { env, timeout: 120_000 })).stdout;
}

test("write, read, list, ls, chmod, exists, rm", { skip, timeout: 120_000 }, async () => {
  await run("write", "/vm/name", "guest", "/vm/disk/0", "xvda");
  assert.equal(await run("read", "/vm/name"), "guest\n");
  assert.equal(await run("list", "/vm"), "name\ndisk\n");
  await run("chmod", "/vm/name", "n0", "r5");
  const listing = (await run("ls", "-p", "/vm")).replace(/ [. ]+ \(/g, " (");
  assert.equal(listing, 'name = "guest" (n0,r5)\ndisk = "" (n0)\n 0 = "xvda" (n0)\n');
  await run("exists", "/vm/name");
  await run("rm", "/vm");
  await assert.rejects(run("exists", "/vm"));
  await assert.rejects(run("read", "/vm/name"), /couldn't read path \/vm\/name/);
});

test("watch", { skip, timeout: 120_000 }, async () => {
  const watcher = spawn("xenstore-watch", ["-n", "2", "/w"], { env });
  const exited = once(watcher, "exit");
  let output = "";
  watcher.stdout.on("data", (chunk) => {
    output += chunk;
  });
  await once(watcher.stdout, "data");
  await run("write", "/w/x", "1");
  await exited;
  assert.equal(output, "/w\n/w/x\n");
});
