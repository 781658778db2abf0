import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { Hypervisor, openDomain } from "../../host/platform/loopback/index.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { GUEST, joinDomain, Peer, startHypervisor, temporaryDirectory, until } from "./support.js";

test("a directory has one hypervisor, only the user's, and can be used again", async (t) => {
  const directory = join(temporaryDirectory(t), "h");
  const first = await Hypervisor.start(directory);
  assert.equal(statSync(directory).mode & 0o777, 0o700);
  await assert.rejects(Hypervisor.start(directory), (error: Error & { code: string }) => {
    assert.equal(error.code, "EBUSY");
    assert.match(error.message, new RegExp(`in use by the hypervisor of process ${process.pid}`));
    return true;
  });
  await first.close();
  const second = await Hypervisor.start(directory);
  await second.close();
});

test("a dead hypervisor's directory is taken over", async (t) => {
  const directory = temporaryDirectory(t);
  const dead = new Peer(t, "hypervisor", directory);
  await dead.hear();
  const orphan = await openDomain(directory, GUEST);
  await dead.kill();
  await assert.rejects(orphan.eventChannels(), /the loopback hypervisor of .* is gone/);
  await assert.rejects(orphan.grantTable(), { code: "ECONNRESET" });
  await assert.rejects(openDomain(directory, 0), /no loopback machine runs in .*ECONNREFUSED/);

  const hypervisor = await Hypervisor.start(directory);
  await assert.rejects(openDomain(directory, GUEST), { code: "ESRCH" }, "its domains are gone");
  await (await openDomain(directory, 0)).close();
  await hypervisor.close();
});

test("a directory that is something else is left alone", async (t) => {
  const directory = temporaryDirectory(t);
  writeFileSync(join(directory, "precious"), "");
  await assert.rejects(Hypervisor.start(directory), { code: "ENOTEMPTY" });
  statSync(join(directory, "precious"));
});

test("a link in the directory is not followed, and nothing behind it changes", async (t) => {
  const directory = temporaryDirectory(t);
  const precious = join(temporaryDirectory(t), "precious");
  writeFileSync(precious, "contents");
  for (const link of [symlinkSync, linkSync]) {
    link(precious, paths.lock(directory));
    await assert.rejects(Hypervisor.start(directory), /\/lock is not a file of a hypervisor: choose another/);
    assert.equal(readFileSync(precious, "utf8"), "contents");
    rmSync(paths.lock(directory));
  }
});

test("a directory that others can write to, or that is a link, is refused", async (t) => {
  const parent = temporaryDirectory(t);
  const directory = join(parent, "d");
  mkdirSync(directory);
  for (const mode of [0o777, 0o1777, 0o775]) {
    chmodSync(directory, mode);
    await assert.rejects(Hypervisor.start(directory), /d can be written to by other users: choose a new/);
    assert.equal(statSync(directory).mode & 0o7777, mode);
  }
  chmodSync(directory, 0o755);
  symlinkSync(directory, join(parent, "link"));
  await assert.rejects(Hypervisor.start(join(parent, "link")), /link is not a directory itself: name/);
  await (await Hypervisor.start(directory)).close();
});

const root = process.geteuid?.() === 0;
test("a directory of another user is refused", { skip: !root && "needs root" }, async (t) => {
  const directory = temporaryDirectory(t);
  chownSync(directory, 65534, 65534);
  await assert.rejects(Hypervisor.start(directory), /belongs to user 65534: run this as that user/);
  await assert.rejects(openDomain(directory, 0), /belongs to user 65534: run this as that user/);
  chownSync(directory, 0, 0);
});

test("a path that no socket can have is named", async (t) => {
  const directory = join(temporaryDirectory(t), "d".repeat(100));
  await assert.rejects(Hypervisor.start(directory), /and a Unix socket's path may have 107/);
  await assert.rejects(openDomain(directory, 0), { code: "ENAMETOOLONG" });
});

test("domains are checked when they are made", async (t) => {
  const hypervisor = await startHypervisor(t);
  await assert.rejects(hypervisor.createDomain(GUEST, 4096), { code: "EEXIST" });
  await assert.rejects(hypervisor.createDomain(0x7ff0, 4096), { code: "EINVAL" });
  await assert.rejects(hypervisor.createDomain(1, 0), { code: "EINVAL" });
  await assert.rejects(hypervisor.createDomain(1, 2 ** 40), { code: "EINVAL" });
  await assert.rejects(hypervisor.destroyDomain(1), { code: "ESRCH" });
  await assert.rejects(openDomain(hypervisor.directory, 1), { code: "ESRCH" });
});

test("one process at a time is the guest", async (t) => {
  const hypervisor = await startHypervisor(t);
  const domain = await joinDomain(t, hypervisor, GUEST);
  const pages = await domain.pages();
  const other = await joinDomain(t, hypervisor, GUEST);
  await assert.rejects(other.pages(), { code: "EBUSY" });
  await pages.close();
  await other.pages();
  await other.close();
  await (await domain.pages()).close();
});

test("nonsense on the socket harms nobody", async (t) => {
  const hypervisor = await startHypervisor(t);
  for (const line of ["{", "null\n", `${"x".repeat(10_000)}`, '{"id":1,"op":"openEvtchn"}\n', "[]\n"]) {
    const socket = createConnection(paths.socket(hypervisor.directory));
    socket.on("error", () => {});
    socket.end(line);
    socket.resume();
    await new Promise((resolve) => socket.once("close", resolve));
  }
  const domain = await joinDomain(t, hypervisor, GUEST);
  await domain.eventChannels();
  await until(() => hypervisor.sessions === 1, "other sessions end");
});
