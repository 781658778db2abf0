/** qemu-storage-daemon as the helper for images: its command line, and where it cannot run. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { findProgram } from "../../host/storage/helper/command.js";
import { openHelped } from "../../host/storage/helper/open.js";
import { Helper } from "../../host/storage/helper/process.js";
import { storageDaemon } from "../../host/storage/helper/storage-daemon.js";
import { World } from "../cli/world.js";
import { directory, fill, gather, read, scatter, write } from "../storage/helpers.js";
import { withPrograms } from "./support.js";

const how = { readOnly: false, shared: false, cache: "auto", socket: "/run/s" } as const;
const image = (format: string, path: string) => ({ kind: "image", format, path }) as const;

/** What is behind an option, as an object. */
function told(args: readonly string[], option: string): unknown {
  return JSON.parse(args[args.indexOf(option) + 1]);
}

test("qemu-storage-daemon is told of every file, and looks for none itself", () => {
  const bases = [
    { driver: "qcow2", path: "/base, 1", block: false },
    { driver: "raw", path: "/dev/b", block: true },
  ];
  const { args, reach, hasMonitor } = storageDaemon(image("qcow2", "/a"), { ...how, bases }, "io_uring");
  assert.deepEqual(args.slice(0, 4), [
    ...["--chardev", "socket,id=monitor,path=/run/s.monitor,server=on,wait=off"],
    ...["--monitor", "chardev=monitor"],
  ]);
  const file = (driver: string, filename: string, locking: string) => ({
    ...{ driver, filename, locking },
    aio: "io_uring",
  });
  assert.deepEqual(told(args, "--blockdev"), {
    "node-name": "disk",
    "read-only": false,
    discard: "unmap",
    cache: { direct: false, "no-flush": false },
    driver: "qcow2",
    file: file("file", "/a", "on"),
    backing: {
      driver: "qcow2",
      file: file("file", "/base, 1", "auto"),
      backing: { driver: "raw", file: file("host_device", "/dev/b", "auto") },
    },
  });
  assert.deepEqual(told(args, "--export"), {
    type: "vhost-user-blk",
    id: "disk",
    "node-name": "disk",
    writable: true,
    addr: { type: "unix", path: "/run/s" },
    "num-queues": 16,
  });
  assert.deepEqual(reach, {
    files: [
      { path: "/a", writable: true },
      { path: "/base, 1", writable: false },
      { path: "/dev/b", writable: false },
    ],
    configuration: [],
    directory: "/run",
    remote: false,
  });
  assert.equal(hasMonitor, true);
});

test("a helper that is to write an overlay back may write its base, and no other file", () => {
  const bases = [
    { driver: "raw", path: "/b", block: false },
    { driver: "raw", path: "/c", block: false },
  ];
  const { args, reach } = storageDaemon(
    image("qcow2", "/a"),
    { ...how, socket: "/run/s,", bases, writesBase: true },
    "threads",
  );
  assert.deepEqual(args.slice(4, 8), [
    ...["--chardev", "socket,id=jobs,path=/run/s,,.jobs,server=on,wait=off", "--monitor", "chardev=jobs"],
  ]);
  const { backing } = told(args, "--blockdev") as { backing: object };
  assert.deepEqual(backing, {
    ...{ driver: "raw", "node-name": "base", discard: "unmap" },
    file: { driver: "file", filename: "/b", locking: "auto", aio: "threads" },
  });
  assert.deepEqual(
    reach.files.map(({ writable }) => writable),
    [true, true, false],
  );
});

test("what is read-only, shared or past the page cache is so to qemu-storage-daemon, too", () => {
  const other = { ...how, readOnly: true, shared: true, cache: "none" } as const;
  const { args, reach } = storageDaemon(image("vhd", "/a"), other, "threads");
  assert.deepEqual(told(args, "--blockdev"), {
    "node-name": "disk",
    "read-only": true,
    discard: "unmap",
    cache: { direct: true, "no-flush": false },
    driver: "vpc",
    file: { driver: "file", filename: "/a", locking: "off", aio: "threads" },
  });
  assert.match(args.at(-1) ?? "", /"writable":false/);
  assert.deepEqual(reach.files, [{ path: "/a", writable: false }]);
});

test("an image in Ceph is told in parts, and its configuration may be read", (t) => {
  const conf = join(directory(t), "ceph.conf");
  writeFileSync(conf, "");
  const before = process.env["CEPH_CONF"];
  process.env["CEPH_CONF"] = conf;
  t.after(() => {
    if (before === undefined) delete process.env["CEPH_CONF"];
    else process.env["CEPH_CONF"] = before;
  });
  const rbd = { kind: "rbd", pool: "p", namespace: "n,x", image: "i" } as const;
  const { args, reach } = storageDaemon(rbd, how, "io_uring");
  assert.deepEqual(told(args, "--blockdev"), {
    "node-name": "disk",
    "read-only": false,
    discard: "unmap",
    cache: { direct: false, "no-flush": false },
    driver: "raw",
    file: { driver: "rbd", pool: "p", image: "i", namespace: "n,x" },
  });
  assert.equal(reach.remote, true);
  assert.ok(reach.configuration.includes(conf));
  const plain = storageDaemon({ ...rbd, namespace: "" }, how, "io_uring");
  assert.match(plain.args.join(" "), /"file":\{"driver":"rbd","pool":"p","image":"i"\}/);
});

test("without the program, or perl, which ends it with the daemon, it is not started", () => {
  const command = (socket: string) => storageDaemon(image("qcow2", "/a"), { ...how, socket }, "io_uring");
  const start = (absent: string) => () =>
    Helper.start("disk", command, () => {}, { find: (name) => (name === absent ? null : "/bin/false") });
  assert.throws(start("perl"), /^Error: disk: needs perl, which is not installed: `apt install perl-base`$/);
  assert.throws(start("qemu-storage-daemon"), /not installed: `apt install qemu-system-common`$/);
});

/** Opens a new image with qemu-storage-daemon, writes and reads it; what was logged, and what served it. */
async function tryOut(t: TestContext): Promise<{ lines: string[]; through: string }> {
  const path = join(directory(t), "disk.qcow2");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
  const lines: string[] = [];
  const device = await openHelped("disk", image("qcow2", path), {
    readOnly: false,
    warn: (line) => void lines.push(line),
  });
  t.after(() => device.close());
  const io = scatter(1024);
  assert.equal((await write(device, 512, fill(io, Buffer.alloc(1024, "new")))).error, undefined);
  assert.equal((await read(device, 512, io)).error, undefined);
  assert.match(gather(io).toString(), /^newnewnew/);
  return { lines, through: device.through ?? "" };
}

/** A PATH with these programs, and those that are given as shell scripts. */
function programs(t: TestContext, names: readonly string[], scripts: Record<string, string> = {}): void {
  const place = join(directory(t), "bin");
  mkdirSync(place);
  for (const name of names) symlinkSync(findProgram(name) as string, join(place, name));
  for (const [name, text] of Object.entries(scripts)) {
    writeFileSync(join(place, name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(place, name), 0o755);
  }
  const before = process.env["PATH"];
  process.env["PATH"] = `${place}:${before}`;
  t.after(() => {
    process.env["PATH"] = before;
  });
}

withPrograms(["qemu-storage-daemon", "qemu-img"], "it serves an image, and logs nothing", async (t) => {
  const { lines, through } = await tryOut(t);
  assert.match(through, /^qemu-storage-daemon, process [0-9]+.*: qcow2 \S+disk\.qcow2$/);
  assert.deepEqual(
    lines.filter((line) => !/not confined/.test(line)),
    [],
  );
});

withPrograms(
  ["qemu-storage-daemon", "qemu-img"],
  "without io_uring it uses threads, which is said",
  async (t) => {
    const real = findProgram("qemu-storage-daemon") as string;
    const refusal =
      "qemu-storage-daemon: --blockdev x: Unable to use io_uring: failed to init linux io_uring ring";
    programs(t, [], {
      "qemu-storage-daemon": `case "$*" in *'"aio":"io_uring"'*) echo '${refusal}' >&2; exit 1;; esac; exec ${real} "$@"`,
    });
    const { lines, through } = await tryOut(t);
    assert.match(through, /^qemu-storage-daemon, /);
    assert.match(
      lines.at(-1) ?? "",
      /^disk: io_uring is not available to its helper, which is slower without$/,
    );
  },
);

withPrograms(
  ["qemu-storage-daemon", "qemu-img"],
  "an image that is damaged costs one line in its words",
  async (t) => {
    const place = directory(t);
    const path = join(place, "disk.vmdk");
    execFileSync("qemu-img", ["create", "-q", "-f", "vmdk", path, "1M"]);
    // It finds nothing wrong with the header, as one that is rewritten after it has looked.
    programs(t, [], { "qemu-img": `echo '{"format":"vmdk"}'` });
    writeFileSync(path, Buffer.alloc(65_536, "no image"), { flag: "r+" });
    const opened = openHelped(path, image("vmdk", path), {
      readOnly: false,
      warn: () => {},
    });
    await assert.rejects(opened, ({ message }: Error) => {
      assert.match(message, /disk\.vmdk: qemu-storage-daemon cannot serve it: qemu-storage-daemon: [^{}]+$/);
      assert.doesNotMatch(message, /\n|blockdev/);
      return true;
    });
  },
);

withPrograms(
  ["qemu-storage-daemon", "qemu-img"],
  "a machine that is named by a relative path has helpers, too",
  async (t) => {
    const world = await World.start(t, "--directory", "machine");
    const path = world.scene.path("disk.qcow2");
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "16M"]);
    (await world.run("attach", "1", `${path},qcow2,xvda,rw`)).expect(0);
    (await world.run("show", "1/xvda")).expect(0).expectMatch(/qemu-storage-daemon, process \d+/);
  },
);
