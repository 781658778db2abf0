/** The daemon and whoever has started it: what it tells the service manager, and who may tell it what to do. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { ControlServer } from "../../host/daemon/control.js";
import { ServiceManager, summary } from "../../host/daemon/service-manager.js";
import { NOBODY, otherUserMissing } from "../support/other-user.js";
import { absent } from "../support/programs.js";

/** Receives datagrams and prints each as a line of JSON: Node cannot. */
const RECEIVER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace("@", "\\0", 1))
print("null", flush=True)
while True: print(json.dumps(s.recv(4096).decode()), flush=True)
`;

for (const kind of ["a path", "an abstract name"] as const) {
  test(`sd_notify to ${kind}`, { skip: absent("python3"), timeout: 120_000 }, async () => {
    const directory = mkdtempSync(join(tmpdir(), "xbdback-notify-"));
    const path = join(directory, "notify");
    const address = kind === "a path" ? path : `@${path}`;
    const receiver = spawn("python3", ["-c", RECEIVER, address], { stdio: ["ignore", "pipe", "inherit"] });
    const lines = receiver.stdout.setEncoding("utf8")[Symbol.asyncIterator]();
    let buffered = "";
    const next = async (): Promise<string | null> => {
      while (!buffered.includes("\n")) buffered += (await lines.next()).value;
      const [line] = buffered.split("\n");
      buffered = buffered.slice(line.length + 1);
      return JSON.parse(line);
    };
    try {
      assert.equal(await next(), null);
      const environment = {
        NOTIFY_SOCKET: address,
        WATCHDOG_USEC: "20000",
        WATCHDOG_PID: String(process.pid),
      };
      const said: string[] = [];
      const manager = new ServiceManager((line) => said.push(line), environment);
      assert.deepEqual(environment, {});
      manager.ready();
      assert.equal(await next(), "READY=1");
      assert.equal(await next(), "WATCHDOG=1");
      // A thread that hangs: nothing more is said to the service manager, but a word to the operator.
      let wakes: () => void = () => {};
      const hung = new Promise<void>((resolve) => {
        wakes = resolve;
      });
      manager.alive = () => hung;
      while (said.length === 0) await pause(5);
      assert.match(said[0], /a thread does not answer/);
      let told = next();
      // Some may have been on their way, to a receiver that is slow: it was told each 10 ms.
      for (let late = 0; (await Promise.race([told, pause(500, null)])) !== null; late++) {
        assert.ok(late < 20, "the service manager is told all the same");
        told = next();
      }
      wakes();
      assert.equal(await told, "WATCHDOG=1");
      manager.stopping();
      let last = await next();
      while (last === "WATCHDOG=1") last = await next();
      assert.equal(last, "STOPPING=1");
      manager.status("1 disk");
      manager.status("1 disk");
      manager.reloading();
      assert.equal(await next(), "STATUS=1 disk");
      assert.match((await next()) ?? "", /^RELOADING=1\nMONOTONIC_USEC=[0-9]+$/);
    } finally {
      receiver.kill();
      rmSync(directory, { recursive: true });
    }
  });
}

test("a service manager that is gone is told of in a line, and kills nothing", () => {
  const lines: string[] = [];
  new ServiceManager((line) => lines.push(line), { NOTIFY_SOCKET: "/nonexistent/notify" }).ready();
  assert.deepEqual(lines, [
    "xbdback: the service manager cannot be notified: sendmsg /nonexistent/notify: ENOENT",
  ]);
  new ServiceManager(assert.fail, {}).ready();
});

test("descriptors are those of this process, and nothing of it is for its children", () => {
  const given = (pid: number) => ({ LISTEN_PID: String(pid), LISTEN_FDS: "3", LISTEN_FDNAMES: "a:b" });
  const environment: NodeJS.ProcessEnv = { PATH: "/bin", ...given(process.pid) };
  assert.equal(new ServiceManager(assert.fail, environment).present, false);
  assert.deepEqual(environment, { PATH: "/bin" });
  assert.deepEqual(new ServiceManager(assert.fail, given(1)).inherited, []);
});

test("of the descriptors that a process is told of, only the files are there", () => {
  const program = `
    import { ServiceManager } from ${JSON.stringify(new URL("../../host/daemon/service-manager.js", import.meta.url))};
    const given = (LISTEN_FDS) =>
      new ServiceManager(console.error, { LISTEN_FDS, LISTEN_PID: String(process.pid), LISTEN_FDNAMES: "a:b" }).inherited;
    console.log(JSON.stringify(["3", "1000000000", "-1", "many", undefined].map(given)));
  `;
  const file = openSync(process.execPath, "r");
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "pipe", file, file, file],
    encoding: "utf8",
  });
  closeSync(file);
  assert.equal(stderr, "");
  const three = [
    { name: "a", fd: 3 },
    { name: "b", fd: 4 },
    { name: "", fd: 5 },
  ];
  // What comes after them is Node's own.
  assert.deepEqual(JSON.parse(stdout), [three, three, [], [], []]);
});

test("another process's watchdog is not ours", async () => {
  const lines: string[] = [];
  const environmentOf = (pid: number) => ({
    ...{ NOTIFY_SOCKET: "/nonexistent", WATCHDOG_USEC: "1" },
    WATCHDOG_PID: String(pid),
  });
  new ServiceManager((line) => lines.push(line), environmentOf(1));
  // One that is ours is due at the same time, and cannot be told.
  const own: string[] = [];
  const mine = new ServiceManager((line) => own.push(line), environmentOf(process.pid));
  while (own.length === 0) await pause(5);
  mine.stopping();
  assert.deepEqual(lines, []);
});

test("the status counts disks", () => {
  const vbd = (waitsFor: string | null) => ({ waitsFor });
  assert.equal(summary("vbd", [vbd(null)]), "serving backend/vbd: 1 disk, 1 connected");
  assert.equal(summary("vbd3", [vbd(null), vbd("x")]), "serving backend/vbd3: 2 disks, 1 connected");
});

const CLIENT = `
const socket = require("node:net").connect(process.argv[1]);
socket.on("data", (data) => { process.stdout.write(data); socket.end(); });
socket.write('{"command": "list"}\\n');
`;

test("the control socket answers root and its own user, and refuses others even if they can connect", {
  skip: otherUserMissing(),
}, async () => {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-peer-"));
  const path = join(directory, "control.sock");
  const control = await ControlServer.listen(path, () => ({ asked: true }));
  const askAs = async (uid: number): Promise<object> => {
    const child = spawn(process.execPath, ["-e", CLIENT, path], {
      uid,
      stdio: ["ignore", "pipe", "inherit"],
      cwd: "/",
    });
    let answer = "";
    for await (const data of child.stdout) answer += data;
    return JSON.parse(answer);
  };
  try {
    chmodSync(directory, 0o755);
    chmodSync(path, 0o666);
    assert.deepEqual(await askAs(0), { ok: true, asked: true });
    assert.deepEqual(await askAs(NOBODY), {
      ok: false,
      error: "user 65534 may not control this daemon: only root and user 0 may",
    });
  } finally {
    await control.close();
    rmSync(directory, { recursive: true });
  }
});
