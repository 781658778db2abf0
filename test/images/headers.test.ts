/** Images whose header names files of its author's choice, and programs that do not tell which: nothing is served then. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { appendFileSync, chmodSync, copyFileSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { imageInfo } from "../../host/storage/helper/chain.js";
import { openHelped } from "../../host/storage/helper/open.js";
import { World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { directory } from "../storage/helpers.js";
import { withPrograms } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

function create(format: string, path: string, ...args: string[]): void {
  execFileSync("qemu-img", ["create", "-q", "-f", format, ...args, path, "1M"]);
}

/** A VMDK that is a text of at least a sector, with its data in other files. */
function describedVmdk(path: string, subformat: string): void {
  create("vmdk", path, "-o", `subformat=${subformat}`);
  appendFileSync(path, "# the end\n".repeat(100));
}

const open = (format: string, path: string) =>
  openHelped(path, { kind: "image", format, path }, { readOnly: true, warn: () => {} });

/** A qemu-img that is a shell script, before the real one in PATH, until the test ends. */
function standIn(t: TestContext, text: string): void {
  const place = directory(t);
  writeFileSync(join(place, "qemu-img"), `#!/bin/sh\n${text}\n`);
  chmodSync(join(place, "qemu-img"), 0o755);
  const before = process.env["PATH"];
  process.env["PATH"] = `${place}:${before}`;
  t.after(() => {
    process.env["PATH"] = before;
  });
}

for (const [what, text, why] of [
  ["fails", "echo 'qemu-img: cannot' >&2; exit 1", /disk: qemu-img cannot read its header: cannot$/],
  ["says nothing", "exit 1", /it exited without any output$/],
  ["says too much", "head -c 17000000 /dev/zero", /it describes more than 16 MiB$/],
  ["does not speak JSON", "echo yes", /its answer is not JSON$/],
] as const) {
  withPrograms(["qemu-storage-daemon"], `nothing is served where qemu-img ${what}`, async (t) => {
    const path = join(directory(t), "disk");
    writeFileSync(path, new Uint8Array(1 << 20));
    standIn(t, text);
    await assert.rejects(open("qcow2", path), why);
  });
}

test("nothing is served where qemu-img is slow, or not installed", async (t) => {
  standIn(t, "exec sleep 60");
  await assert.rejects(imageInfo("/disk", "qcow2", { timeoutMs: 50 }), /no answer within 0.05 s; check the/);
  await assert.rejects(
    imageInfo("/disk", "qcow2", { program: "no-such-program" }),
    /^Error: \/disk: needs no-such-program, which is not installed: `apt install qemu-utils`$/,
  );
});

withPrograms(QEMU, "a header with thousands of snapshots is read all the same", async (t) => {
  const root = directory(t);
  create("qcow2", join(root, "base"));
  create("qcow2", join(root, "disk"), "-b", join(root, "base"), "-F", "qcow2");
  const snapshots = Array.from({ length: 8000 }, (_, i) => ({ id: `${i}`, name: "x".repeat(400) }));
  const answer = JSON.stringify({ format: "qcow2", snapshots, "backing-filename": "json:{}" });
  // It can read no other file than itself.
  standIn(t, `exec tail -n +3 "$0"\n${answer}`);
  await assert.rejects(open("qcow2", join(root, "disk")), /its header's base "json:\{\}" is not a path/);
});

/** Images that consist of more than their own file, and what is said of each. */
const STRANGE: [name: string, format: string, make: (root: string) => void, why: RegExp][] = [
  [
    "ext.qcow2",
    "qcow2",
    (root) => create("qcow2", join(root, "ext.qcow2"), "-o", `data_file=${root}/victim,data_file_raw=on`),
    /ext\.qcow2: its header puts data into another file, "\S+victim", which is not allowed; /,
  ],
  [
    "flat.vmdk",
    "vmdk",
    (root) => describedVmdk(join(root, "flat.vmdk"), "monolithicFlat"),
    /flat\.vmdk: its header puts data into another file, "\S+flat-flat\.vmdk", which/,
  ],
  [
    "split.vmdk",
    "vmdk",
    (root) => describedVmdk(join(root, "split.vmdk"), "twoGbMaxExtentSparse"),
    /split\.vmdk: its header puts data into another file, "\S+split-s001\.vmdk", which/,
  ],
  [
    "json.qcow2",
    "qcow2",
    (root) => {
      const name = `json:{"driver":"raw","file":{"driver":"file","filename":"${root}/base"}}`;
      create("qcow2", join(root, "json.qcow2"), "-u", "-b", name, "-F", "raw");
    },
    /json\.qcow2: its header's base "json:\{.*\}" is not a path; /,
  ],
  [
    "remote.qcow2",
    "qcow2",
    (root) => create("qcow2", join(root, "remote.qcow2"), "-u", "-b", "nbd:localhost:1", "-F", "raw"),
    /remote\.qcow2: its header's base "nbd:localhost:1" is not a path; /,
  ],
  [
    "driver.qcow2",
    "qcow2",
    (root) => create("qcow2", join(root, "driver.qcow2"), "-u", "-b", `${root}/base`, "-F", "blkdebug"),
    /driver\.qcow2: the format "blkdebug" of its base \S+base is not one of raw, qcow, qcow2, /,
  ],
  [
    "base.qed",
    "qed",
    (root) => create("qed", join(root, "base.qed"), "-b", join(root, "plain"), "-F", "qcow2"),
    /base\.qed: does not name the format of its base \S+plain, /,
  ],
  [
    "loop.qcow2",
    "qcow2",
    (root) => {
      create("qcow2", join(root, "loop.qcow2"), "-u", "-b", "loop.qcow2", "-F", "qcow2");
    },
    /loop\.qcow2: its bases form a loop at \S+loop\.qcow2; /,
  ],
  [
    "over.qcow2",
    "qcow2",
    (root) => {
      create("qcow2", join(root, "middle"), "-o", `data_file=${root}/second-victim`);
      create("qcow2", join(root, "over.qcow2"), "-b", join(root, "middle"), "-F", "qcow2");
    },
    /middle: its header puts data into another file, "\S+second-victim", /,
  ],
];

withPrograms(QEMU, "an image whose header chooses other files is refused, and they are named", async (t) => {
  const root = directory(t);
  create("raw", join(root, "base"));
  create("qcow2", join(root, "plain"));
  for (const [name, format, make, why] of STRANGE) {
    make(root);
    await assert.rejects(open(format, join(root, name)), (error: Error) => {
      assert.match(error.message, why);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  }
  const ours = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return "";
    }
  });
  assert.deepEqual(
    ours.filter((path) => path.startsWith(root)),
    [],
  );
});

withPrograms(QEMU, "a chain of relative names is served as it was looked at", async (t) => {
  const root = directory(t);
  writeFileSync(join(root, "base"), Buffer.alloc(1 << 20, "base"));
  create("qcow2", join(root, "middle"), "-b", "base", "-F", "raw");
  create("vmdk", join(root, "bottom.vmdk"));
  create("qcow2", join(root, "top"), "-b", "./middle", "-F", "qcow2");
  create("vmdk", join(root, "top.vmdk"), "-b", join(root, "bottom.vmdk"), "-F", "vmdk");
  const device = await open("qcow2", join(root, "top"));
  assert.match(device.through ?? "", /: qcow2 \S+\/top, over qcow2 \S+\/middle, over raw \S+\/base$/);
  await device.close();
  await (await open("vmdk", join(root, "top.vmdk"))).close();
});

withPrograms(QEMU, "check, attach and a take-over refuse an external data file in one line", async (t) => {
  const world = await World.start(t);
  const at = (name: string): string => world.scene.path(name);
  create("qcow2", at("disk.qcow2"));
  create("qcow2", at("ext.qcow2"), "-o", `data_file=${at("victim")},data_file_raw=on`);
  const why = /ext\.qcow2: its header puts data into another file, "\S+victim", which is not allowed; /;
  for (const command of [["check"], ["attach", "1"]]) {
    const outcome = (await world.run(...command, `${at("ext.qcow2")},qcow2,xvda,rw`)).expect(1);
    outcome.expectMatch(why, "stderr");
    assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.story);
  }
  (await world.run("attach", "1", `${at("disk.qcow2")},qcow2,xvda,rw`)).expect(0);
  await world.guest();
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  copyFileSync(at("ext.qcow2"), at("disk.qcow2"));
  world.daemon = world.start("serve");
  await eventually(() => /disk\.qcow2: its header puts data/.test(world.daemon.stderr), "the daemon says it");
  const { vbd } = await world.json<{ vbd: { state: string } }>("show", "1/xvda");
  assert.notEqual(vbd.state, "connected");
});
