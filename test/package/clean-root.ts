/**
 * A clean Debian in a directory: no compiler, no npm, nothing of this checkout; and systemd as the first process of
 * namespaces of its own there. Needs root, and debootstrap with a network the first time.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";

const PATH = "/usr/sbin:/usr/bin:/sbin:/bin";

/** Why there can be no clean root here, for node:test's `skip`; false if there can. */
export function noCleanRoot(): string | false {
  if (process.getuid?.() !== 0) return "a clean root needs root";
  const missing = absent("debootstrap", "dpkg-deb", "pgrep");
  if (missing) return missing;
  return spawnSync("unshare", ["--mount", "true"]).status !== 0 && "unshare(1) is not allowed here";
}

function run(program: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${error?.message ?? ""}\n${stdout}${stderr}`);
  return stdout;
}

/** Debian's smallest system with systemd; made once, then kept in build/. */
function template(): string {
  const directory = join(ROOT, "build/clean-root");
  run(join(ROOT, "test/package/clean-system"), [directory]);
  return directory;
}

/** This machine's Node as Debian's package `nodejs`: bookworm's own is too old. */
function nodePackage(scratch: string): string {
  const root = join(scratch, "nodejs");
  mkdirSync(join(root, "DEBIAN"), { recursive: true });
  mkdirSync(join(root, "usr/bin"), { recursive: true });
  copyFileSync(process.execPath, join(root, "usr/bin/node"));
  // From release 26 on, Node wants a library beside those of its dependencies here.
  for (const [, library] of run("ldd", [process.execPath]).matchAll(/=> (\S*\/libatomic\.so\S*)/g)) {
    const place = join(root, "usr", dirname(library).replace(/^\/usr/, ""));
    mkdirSync(place, { recursive: true });
    copyFileSync(library, join(place, basename(library)));
  }
  writeFileSync(
    join(root, "DEBIAN/control"),
    `Package: nodejs\nVersion: ${process.versions.node}\nArchitecture: ${run("dpkg", ["--print-architecture"]).trim()}\nMaintainer: test <test@localhost>\n` +
      "Depends: libstdc++6, libc6\nDescription: Node of the machine that tests\n",
  );
  run("dpkg-deb", ["--root-owner-group", "-Znone", "--build", root, join(scratch, "nodejs.deb")]);
  return join(scratch, "nodejs.deb");
}

/** A command's end. */
export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class CleanRoot {
  readonly directory: string;
  readonly #scratch: string;
  #init: ChildProcess | null = null;
  #initPid = 0;

  /** A fresh system with Node in it. */
  constructor() {
    this.#scratch = mkdtempSync(join(tmpdir(), "xbdback-root-"));
    this.directory = join(this.#scratch, "root");
    run("cp", ["-a", "--reflink=auto", template(), this.directory]);
    this.install(nodePackage(this.#scratch));
  }

  /** Installs a package, as `dpkg -i` does there, and returns what that prints. */
  install(deb: string): string {
    copyFileSync(deb, join(this.directory, "package.deb"));
    return run("chroot", [
      this.directory,
      "env",
      "-i",
      `PATH=${PATH}`,
      "DEBIAN_FRONTEND=noninteractive",
      "dpkg",
      "-i",
      "/package.deb",
    ]);
  }

  /** What a shell command prints there, with /proc and /dev/shm and no system running. Throws if it fails. */
  inside(command: string): string {
    const script = `set -e
      mount -t proc proc ${this.directory}/proc
      mount -t tmpfs tmpfs ${this.directory}/dev/shm
      exec chroot ${this.directory} env -i PATH=${PATH} sh -c "$1"`;
    return run("unshare", ["--mount", "--pid", "--fork", "sh", "-c", script, "sh", command]);
  }

  path(file: string): string {
    return join(this.directory, file);
  }

  /** Boots systemd in it. `shared` is a directory of this machine's that is there by the same name. */
  async boot(shared: string): Promise<void> {
    const root = this.directory;
    const script = `set -e
      mount --make-rprivate /
      mount --bind ${root} ${root}
      mount -t proc proc ${root}/proc
      mount -t sysfs -o ro sysfs ${root}/sys
      mount -t tmpfs tmpfs ${root}/run
      # A mount, or systemd puts this machine's devices there.
      mount --bind ${root}/dev ${root}/dev
      mount -t tmpfs tmpfs ${root}/dev/shm
      mkdir -p ${root}${shared}
      mount --bind ${shared} ${root}${shared}
      if ! mount -t cgroup2 cgroup2 ${root}/sys/fs/cgroup 2> /dev/null; then
        mount -t tmpfs tmpfs ${root}/sys/fs/cgroup
        mkdir ${root}/sys/fs/cgroup/systemd
        mount -t cgroup -o none,name=systemd cgroup ${root}/sys/fs/cgroup/systemd
      fi
      cd ${root}
      exec env -i container=test PATH=${PATH} chroot ${root} /lib/systemd/systemd --system --unit=basic.target`;
    const spaces = ["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc"];
    const init = spawn("unshare", [...spaces, "sh", "-c", script], { stdio: ["ignore", "ignore", "pipe"] });
    this.#init = init;
    let errors = "";
    init.stderr!.setEncoding("utf8").on("data", (text) => {
      errors += text;
    });
    for (let tries = 0; tries < 600; tries++) {
      await pause(100);
      if (init.exitCode !== null) throw new Error(`systemd did not start: ${errors}`);
      this.#initPid ||= Number(spawnSync("pgrep", ["-P", String(init.pid)], { encoding: "utf8" }).stdout);
      if (this.#initPid && /running|degraded/.test((await this.run("systemctl is-system-running")).stdout))
        return;
    }
    throw new Error(`systemd is not up after a minute: ${errors}`);
  }

  /** Runs a shell command in the booted system; without blocking, as it may talk with this process. */
  async run(command: string): Promise<Ended> {
    const enter = [
      "-t",
      String(this.#initPid),
      "--mount",
      "--pid",
      "--uts",
      "--ipc",
      "--cgroup",
      "--root",
      "--wd",
    ];
    const inside = ["env", "-i", `PATH=${PATH}`, "HOME=/root", "LC_ALL=C.UTF-8", "sh", "-c", command];
    const child = spawn("nsenter", [...enter, ...inside], {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 120_000,
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
    const [status] = await once(child, "close");
    return { status, stdout, stderr };
  }

  /** What a shell command prints. Rejects with all it said if it fails. */
  async output(command: string): Promise<string> {
    const { status, stdout, stderr } = await this.run(command);
    if (status === 0) return stdout.trimEnd();
    const journal = await this.run("journalctl -n 30 --no-pager");
    throw new Error(`${command}: status ${status}\n${stdout}${stderr}${journal.stdout}`);
  }

  async close(): Promise<void> {
    if (this.#init && this.#init.exitCode === null) {
      const ended = once(this.#init, "exit");
      // --kill-child takes the first process along, and that all others.
      this.#init.kill("SIGKILL");
      await ended;
    }
    // The namespaces take a moment to go.
    rmSync(this.#scratch, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}
