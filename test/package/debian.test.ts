/** The Debian package as its user has it: installed on a clean system, run there, and under systemd. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import type { Blkfront } from "../../host/guest/blkfront.js";
import { landlockVersion } from "../../host/platform/libc.js";
import { confined } from "../../host/storage/helper/confined.js";
import { addVbd, removeVbd } from "../../host/toolstack/vbd.js";
import { ROOT } from "../hosts/tools.js";
import { DEVID, DOMID, Machine } from "../vbd/harness.js";
import { CleanRoot, noCleanRoot } from "./clean-root.js";
import { deadLinks } from "./links.js";
import { nativeParts } from "./native-parts.js";

const OPTIONS = { skip: noCleanRoot(), timeout: 900_000 };
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));

let root: CleanRoot;
let machine: Machine;

before(async () => {
  if (OPTIONS.skip) return;
  const built = spawnSync(process.execPath, [join(ROOT, "scripts/package-deb.mjs")], { encoding: "utf8" });
  assert.equal(built.status, 0, built.stderr);
  root = new CleanRoot();
  root.install(join(ROOT, built.stdout.trim()));
  machine = await Machine.start();
  await machine.backend.stop();
  await root.boot(machine.host.directory);
}, OPTIONS);

after(async () => {
  await machine?.close();
  await root?.close();
}, OPTIONS);

test("the installed command runs without a compiler, npm or AssemblyScript", OPTIONS, async () => {
  for (const tool of ["gcc", "cc", "make", "npm", "python3"])
    assert.notEqual((await root.run(`command -v ${tool}`)).status, 0, tool);
  assert.equal(await root.output("xbdback --version"), version);
  assert.match(await root.output("xbdback demo --size 16M --operations 500 2> /dev/null"), /data verified/);
});

test("of koffi's native parts it has this architecture's for glibc", OPTIONS, () => {
  const part = process.arch === "arm64" ? "linux_arm64 for arm64" : "linux_x64 for x86-64";
  assert.deepEqual(nativeParts(root.path("usr/lib/xbdback")), [part]);
});

test("what the package installs is where Debian has it", OPTIONS, async () => {
  const files = (await root.output("dpkg -L xbdback")).split("\n");
  const wanted = [
    "/usr/share/man/man8/xbdback.8.gz",
    "/usr/share/man/man5/xbdback.toml.5.gz",
    "/usr/share/man/man7/xbdback-core.7.gz",
    "/usr/lib/systemd/system/xbdback.service",
    "/usr/share/bash-completion/completions/xbdback",
    "/usr/share/zsh/vendor-completions/_xbdback",
    "/etc/xen/scripts/block-xbdback",
    "/usr/share/doc/xbdback/copyright",
    "/usr/share/xbdback/logrotate",
  ];
  assert.deepEqual(
    wanted.filter((file) => !files.includes(file)),
    [],
  );
  assert.equal(await root.output("dpkg -V xbdback"), "");
  assert.equal(
    await root.output("cat /var/lib/dpkg/info/xbdback.conffiles"),
    "/etc/xbdback/xbdback.toml\n/etc/xen/scripts/block-xbdback",
  );
  assert.equal(await root.output("systemctl is-enabled xbdback || true"), "disabled");
});

test(
  "every file of the package that its man pages name is there, and its documents' links lead to others",
  OPTIONS,
  async () => {
    const pages = await root.output("zcat /usr/share/man/man?/xbdback*");
    const named = new Set(
      pages.match(/\/(?:usr\/(?:lib|share)\/(?:doc\/)?xbdback|etc\/xen\/scripts)\/[\w./-]*/g),
    );
    assert.ok(named.size >= 3, [...named].join());
    for (const name of named) await root.output(`test -e ${name}`);
    const relative = pages.match(/(?<=^\.It Pa )(?:build|docs)\/[^ ,\n]*/gm) ?? [];
    for (const name of relative) await root.output(`test -e /usr/lib/xbdback/${name}`);
    const directory = "/usr/share/doc/xbdback";
    const found = await root.output(`cd ${directory} && find -L . -name '*.md'`);
    const documents = found.split("\n").map((name) => name.replace("./", ""));
    for (const name of ["README.md", "docs/disks.md", "examples/README.md"])
      assert.ok(documents.includes(name), name);
    assert.deepEqual(deadLinks(root.path(directory), documents), []);
  },
);

test("without Xen the unit is skipped, not failed", OPTIONS, async () => {
  await root.output("systemctl start xbdback");
  assert.match(
    await root.output("systemctl show -p ActiveState,ConditionResult xbdback"),
    /ConditionResult=no/,
  );
  assert.equal(await root.output("systemctl is-failed xbdback || true"), "inactive");
});

/** Until the condition holds or the time is over: what is asserted next tells which. */
async function wait(condition: () => Promise<boolean>, seconds: number): Promise<void> {
  for (let tries = 0; tries < seconds * 10 && !(await condition()); tries++) await pause(100);
}

function journal(): Promise<string> {
  return root.output("journalctl -u xbdback --no-pager");
}

/**
 * The unit with all its restrictions, but on a loopback machine: there the journals are in /dev/shm, whose files RemoveIPC
 * takes for IPC, and not in /run/xbdback.
 */
async function serveLoopback(): Promise<void> {
  const command = `/usr/bin/xbdback serve --directory ${machine.host.directory}`;
  await root.output("mkdir -p /etc/systemd/system/xbdback.service.d");
  writeFileSync(
    root.path("etc/systemd/system/xbdback.service.d/loopback.conf"),
    `[Unit]\nConditionPathExists=\n[Service]\nExecStart=\nExecStart=${command}\nRemoveIPC=no\n`,
  );
  await root.output("systemctl daemon-reload && systemctl start xbdback");
}

/** A restart and a crash, each under a guest whose writes go on: it sees a pause, and nothing else. */
async function restartUnderGuest(disk: Blkfront, image: string): Promise<void> {
  const mainPid = (): Promise<string> => root.output("systemctl show -p MainPID --value xbdback");
  const takenOver = async (): Promise<number> => (await journal()).match(/taken over/g)?.length ?? 0;
  let writes = 0;
  let over = false;
  const work = (async () => {
    for (; !over; writes++) await disk.write((writes % 64) * 4096, new Uint8Array(4096).fill(writes));
  })();
  for (const [time, how] of ["systemctl restart xbdback", "systemctl kill -s KILL xbdback"].entries()) {
    const pid = await mainPid();
    await root.output(how);
    // systemd keeps the image's lock, and the image itself.
    if (time === 1)
      assert.equal(await root.output(`flock --nonblock ${image} true; echo $?; rm ${image}`), "1");
    await wait(async () => (await takenOver()) > time, 30);
    assert.equal(await takenOver(), time + 1, `${how}: ${await journal()}`);
    assert.notEqual(await mainPid(), pid);
    const before = writes;
    await wait(async () => writes !== before, 10);
    assert.ok(writes > before, `${how}: the guest's writes do not go on`);
  }
  over = true;
  await work;
  const last = new Uint8Array(4096);
  await disk.read(((writes - 1) % 64) * 4096, last);
  assert.deepEqual(last, new Uint8Array(4096).fill(writes - 1));
}

test("under systemd a guest has its disk, and the daemon no more than it needs", OPTIONS, async () => {
  await serveLoopback();
  const guest = await machine.guest();
  const path = "/srv/disk.img";
  writeFileSync(root.path(path), "");
  truncateSync(root.path(path), 16 << 20);
  await root.output(`chmod 600 ${path}`);
  const spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path, mode: "w", dev: "xvda" };
  await addVbd(machine.xenstore, spec);
  const disk = await machine.connect(guest);
  await disk.write(4096, new Uint8Array(4096).fill(0x5a));
  await disk.flush();
  assert.equal(readFileSync(root.path(path))[4096], 0x5a);

  const pid = await root.output("systemctl show -p MainPID --value xbdback");
  const status = await root.output(`cat /proc/${pid}/status`);
  const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(status)?.[1] ?? "";
  assert.equal(field("Uid"), await root.output("id -u xbdback"));
  assert.notEqual(field("Uid"), "0");
  const DAC_OVERRIDE = "0000000000000002";
  for (const set of ["CapPrm", "CapEff", "CapBnd"]) assert.equal(field(set), DAC_OVERRIDE, set);
  assert.deepEqual([field("NoNewPrivs"), field("Seccomp")], ["1", "2"]);
  // The filter lets io_uring through: this is no fallback.
  assert.doesNotMatch(await journal(), /no io_uring|EPERM/);

  // What Type=notify has heard, and what a reload says and leaves alone.
  const show = (what: string): Promise<string> => root.output(`systemctl show -p ${what} --value xbdback`);
  const told = "serving backend/vbd: 1 disk, 1 connected";
  await wait(async () => (await show("StatusText")) === told, 10);
  assert.equal(await show("StatusText"), told);
  writeFileSync(root.path("etc/xbdback/xbdback.toml"), "max-queues = 1\nkind = 'vbd3'\n");
  await root.output("systemctl reload xbdback");
  const lines = [
    "max-queues = 1: for disks that connect from now on",
    '"vbd3.?": takes effect when the daemon is restarted',
  ];
  const reloaded = async (): Promise<boolean> => {
    const text = await journal();
    return lines.every((line) => new RegExp(line).test(text));
  };
  await wait(reloaded, 10);
  assert.ok(await reloaded(), await journal());
  assert.equal(await show("ActiveState"), "active");
  assert.equal(await show("MainPID"), pid);
  await disk.write(0, new Uint8Array(4096));
  writeFileSync(root.path("etc/xbdback/xbdback.toml"), "");

  const stored = (): Promise<string> => show("NFileDescriptorStore");
  assert.equal(await stored(), "1");
  await restartUnderGuest(disk, path);
  assert.equal(await stored(), "1");

  await disk.close();
  assert.equal(await removeVbd(machine.xenstore, spec), "closed");
  await wait(async () => (await stored()) === "0", 10);
  assert.equal(await stored(), "0");
  await root.output("systemctl stop xbdback");
  assert.equal(await root.output("systemctl show -p Result --value xbdback"), "success");
});

test("a daemon that does nothing any more is killed by the watchdog, and started anew", OPTIONS, async () => {
  const drop = root.path("etc/systemd/system/xbdback.service.d/watchdog.conf");
  writeFileSync(drop, "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n");
  await root.output("systemctl daemon-reload && systemctl start xbdback");
  const pid = await root.output("systemctl show -p MainPID --value xbdback");
  // As long as it is alive it says so.
  await pause(5000);
  assert.equal(await root.output("systemctl show -p MainPID --value xbdback"), pid);
  await root.output(`kill -STOP ${pid}`);
  const restarted = async (): Promise<boolean> =>
    (await root.output("systemctl show -p NRestarts --value xbdback")) !== "0" &&
    (await root.output("systemctl show -p ActiveState --value xbdback")) === "active";
  await wait(restarted, 30);
  assert.ok(await restarted());
  assert.match(await journal(), /Watchdog timeout/);
  await root.output("systemctl stop xbdback");
});

test("the unit is well-formed, and its score is the one that the manual states", OPTIONS, async () => {
  // What the tests before have changed of it.
  await root.output("rm -r /etc/systemd/system/xbdback.service.d");
  assert.equal(
    await root.output("systemd-analyze verify --man=no /usr/lib/systemd/system/xbdback.service 2>&1"),
    "",
  );
  const report = await root.output(
    "systemd-analyze security --offline=true --no-pager /usr/lib/systemd/system/xbdback.service",
  );
  const [, score] = /exposure level for xbdback.service: ([0-9.]+)/.exec(report) as RegExpExecArray;
  const manual = readFileSync(join(ROOT, "packaging/man/xbdback.8"), "utf8");
  assert.ok(manual.includes(`gives it ${score}.`), `systemd-analyze security gives ${score}`);
});

test("under the unit's restrictions a helper opens its files, and no others", OPTIONS, async (t) => {
  if (landlockVersion() === 0) return t.skip("this kernel has no Landlock");
  const files = [{ path: "/srv/own", writable: true }];
  const reach = { files, configuration: [], directory: null, remote: false };
  const { args } = confined("/bin/cat", ["/srv/own", "/srv/other"], reach, { perl: "/usr/bin/perl" });
  const [, launcher, , ...rest] = args;
  writeFileSync(root.path("srv/launcher.pl"), launcher);
  // The unit's parent is systemd.
  const command = ["/usr/bin/perl", "/srv/launcher.pl", "1", ...rest].join(" ");
  await root.output("umask 077 && echo its own > /srv/own && echo secret > /srv/other");
  const unit = readFileSync(root.path("usr/lib/systemd/system/xbdback.service"), "utf8")
    .replace(/^(Condition|Restart|Watchdog).*\n/gm, "")
    .replace(/^Type=.*$/m, "Type=oneshot")
    .replace(/^ExecStart=.*$/m, `ExecStart=${command}`);
  writeFileSync(root.path("etc/systemd/system/confined.service"), unit);
  assert.notEqual((await root.run("systemctl daemon-reload && systemctl start confined")).status, 0);
  const said = await root.output("journalctl -u confined -o cat --no-pager");
  assert.match(said, /^its own$/m);
  assert.match(said, /^\/bin\/cat: \/srv\/other: Permission denied$/m);
  assert.doesNotMatch(said, /secret/);
});
