// `npm run test:bare`, as root: what somebody does who has a fresh Debian 13 with its own nodejs and npm, and has read the
// README that far. A plain user there runs the README's two commands in a fresh copy of this checkout's last commit.
//
// The system is a directory, build/bare-root, which debootstrap fills the first time; no other program that tests may use
// is in it. What these tests then skip is right here; what they fail at, a new user would see. `--fetch` makes the system and
// nothing else; other words are for `npm test`.
import { spawnSync } from "node:child_process";
import {
  accessSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const words = process.argv.slice(2);
const COMMANDS = ["npm run demo", ["npm test", ...(words.length > 0 ? ["--"] : []), ...words].join(" ")];
const RELEASE = "trixie";
const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** The plain user, and his number. */
const USER = "visitor";
const UID = 1000;
/** Environment by which a machine reaches its package registries. */
const NETWORK = /^(https?_proxy|no_proxy|node_extra_ca_certs|ssl_cert_file|ssl_cert_dir)$/i;
/** npm's settings of the same kind. */
const NPM_SETTINGS = ["registry", "proxy", "https-proxy", "noproxy", "cafile"];

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const system = join(root, "build/bare-root");

function fail(message) {
  process.stderr.write(`test:bare: ${message}\n`);
  process.exit(2);
}

/** Runs a program to its end; returns what it printed, or ends this one with all it said. */
function run(program, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: "utf8",
    maxBuffer: 1 << 30,
    ...options,
  });
  if (status === 0) return stdout;
  fail(`${program} ${args.join(" ")}: ${error?.message ?? ""}\n${stdout ?? ""}${stderr ?? ""}`);
}

/** Where this machine gets Debian's packages; nothing, for debootstrap's own choice, where apt does not say. */
function mirror() {
  const wanted = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"];
  const { stdout } = spawnSync("apt-get", wanted, { encoding: "utf8" });
  return (
    stdout
      ?.split("\n")
      .filter((line) => line !== "")
      .slice(0, 1) ?? []
  );
}

/** This machine's ways to the network, in a system's directory. */
function connect(directory) {
  copyFileSync("/etc/resolv.conf", join(directory, "etc/resolv.conf"));
  copyFileSync("/etc/hosts", join(directory, "etc/hosts"));
  const { stdout } = spawnSync("apt-config", ["dump"], { encoding: "utf8" });
  const proxies = stdout?.match(/^Acquire::https?::Proxy .*$/gim) ?? [];
  writeFileSync(join(directory, "etc/apt/apt.conf.d/90machine"), proxies.join("\n"));
}

/** Debian's smallest system with nodejs and npm; made once, then kept in build/. */
function makeSystem() {
  if (existsSync(system)) return;
  const unfinished = `${system}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  process.stdout.write(`making a Debian ${RELEASE} with nodejs and npm (minutes) ...\n`);
  // In a namespace of its own: what it mounts does not stay when it is interrupted.
  const bootstrap = ["--mount", "debootstrap", "--variant=minbase", "--include=ca-certificates"];
  run("unshare", [...bootstrap, RELEASE, unfinished, ...mirror()]);
  connect(unfinished);
  const inside = (command) =>
    run("chroot", [
      unfinished,
      "env",
      `PATH=${PATH}`,
      "DEBIAN_FRONTEND=noninteractive",
      "sh",
      "-ec",
      command,
    ]);
  inside("apt-get update -q && apt-get install -y -q --no-install-recommends nodejs npm && apt-get clean");
  inside(`useradd --create-home --uid ${UID} --shell /bin/sh ${USER}`);
  renameSync(unfinished, system);
}

/** The user's home for one run: the checkout's last commit, and npm's settings of this machine. */
function makeHome(scratch) {
  const checkout = join(scratch, "xbdback");
  mkdirSync(checkout);
  const archive = spawnSync("git", ["-C", root, "-c", "tar.umask=0022", "archive", "HEAD"], {
    maxBuffer: 1 << 30,
  });
  if (archive.status !== 0) fail(`git archive: ${archive.stderr}`);
  run("tar", ["-x", "-C", checkout], { input: archive.stdout });
  const settings = NPM_SETTINGS.flatMap((name) => {
    const value = run("npm", ["config", "get", name], { cwd: root }).trim();
    return value === "" || value === "null" ? [] : [[name, value]];
  });
  writeFileSync(join(scratch, ".npmrc"), settings.map(([name, value]) => `${name}=${value}\n`).join(""));
  run("chown", ["-R", `${UID}:${UID}`, scratch]);
  return settings;
}

/** Certificates which this machine's settings name are there by the same names. */
function copyCertificates(paths) {
  for (const path of new Set(paths)) {
    if (!path.startsWith("/") || !existsSync(path)) continue;
    const to = join(system, path);
    mkdirSync(dirname(to), { recursive: true });
    run("cp", ["-aL", ...(path.endsWith("/") ? ["-T"] : []), path, to]);
  }
}

if (process.getuid() !== 0) fail("a root of its own needs root: run it with sudo");
try {
  accessSync("/usr/sbin/debootstrap");
} catch {
  fail("debootstrap is not installed: apt-get install debootstrap");
}
makeSystem();
if (words.includes("--fetch")) process.exit();
connect(system);
const scratch = mkdtempSync(join(root, "build/bare-home-"));
try {
  const settings = makeHome(scratch);
  const environment = Object.entries(process.env).filter(([name]) => NETWORK.test(name));
  const files = [...settings, ...environment].filter(([name]) =>
    /^(cafile|ssl_cert_file|node_extra.*)$/i.test(name),
  );
  copyCertificates(files.map(([, path]) => path));
  const variables = [
    ...environment,
    ["PATH", PATH],
    ["HOME", `/home/${USER}`],
    ["LANG", "C.UTF-8"],
    ["TERM", "dumb"],
  ];
  const env = variables.map(([name, value]) => `${name}=${value}`);
  // The mounts are in a namespace that ends with the commands, and so do all processes.
  const script = `set -e
    mount --make-rprivate /
    mount --bind '${system}' '${system}'
    mount -t proc proc '${system}/proc'
    mount -t sysfs -o ro sysfs '${system}/sys'
    mount -t tmpfs -o mode=1777 tmpfs '${system}/dev/shm'
    mount -t devpts -o newinstance,ptmxmode=0666 devpts '${system}/dev/pts'
    # As Debian 13 has it: files there cannot be opened with O_DIRECT.
    mount -t tmpfs -o mode=1777 tmpfs '${system}/tmp'
    mount --bind '${scratch}' '${system}/home/${USER}'
    cd '${system}'
    # Not chroot: nobody in one may have a user namespace, as somebody on a machine may.
    pivot_root . mnt
    umount --lazy /mnt
    cd /
    exec setpriv --reuid ${UID} --regid ${UID} --clear-groups --inh-caps=-all env -i "$@"`;
  let failed = 0;
  for (const command of COMMANDS) {
    process.stdout.write(`\n== ${command} ==\n`);
    const started = Date.now();
    const inside = ["sh", "-c", `cd ~/xbdback && ${command}`];
    const spaces = ["--mount", "--pid", "--fork", "--kill-child", "--ipc"];
    const { status } = spawnSync("unshare", [...spaces, "sh", "-c", script, "sh", ...env, ...inside], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    const seconds = Math.round((Date.now() - started) / 1000);
    process.stdout.write(`== ${command}: status ${status}, ${seconds} s ==\n`);
    if (status !== 0) failed++;
  }
  const node = readFileSync(join(system, "var/lib/dpkg/status"), "utf8").match(
    /^Package: nodejs\n[\s\S]*?^Version: (.*)$/m,
  )?.[1];
  process.stdout.write(
    `Debian ${RELEASE}, nodejs ${node}: ${COMMANDS.length - failed} passed, ${failed} failed\n`,
  );
  process.exitCode = failed === 0 ? 0 : 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
