/** Which kernel is booted, on machines that are not this one: their apt-get, their packages, their modules. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { findKernel } from "./kernel.js";

const KNOWN = "echo 'linux-image-cloud-amd64'; echo '  Depends: linux-image-9.9-cloud-amd64'";
const LIB = "tree/lib/modules/9.9-cloud-amd64";
const NAMES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"];

/** A shell script that makes each of the modules by a command. */
const modules = (make: (file: string) => string): string =>
  [...NAMES.map((name) => `drivers/virtio/${name}`), "drivers/block/virtio_blk"]
    .map((name) => `mkdir -p $(dirname ${LIB}/kernel/${name}); ${make(`${LIB}/kernel/${name}.ko`)}`)
    .join("\n");
const KERNEL = `mkdir -p tree/boot ${LIB}; echo kernel > tree/boot/vmlinuz-9.9-cloud-amd64`;

/** Looks for a kernel where these are the machine's programs, beside the usual ones; `build` is where it is kept. */
function onMachine(t: TestContext, programs: Record<string, string>) {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-kernel-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  mkdirSync(join(directory, "bin"));
  for (const [name, script] of Object.entries(programs)) {
    const file = join(directory, "bin", name);
    writeFileSync(file, `#!/bin/sh\n${script}\n`);
    chmodSync(file, 0o755);
  }
  const build = join(directory, "kernel");
  const before = process.env["PATH"];
  process.env["PATH"] = `${join(directory, "bin")}:${before}`;
  try {
    return { kernel: findKernel(build), build };
  } finally {
    process.env["PATH"] = before;
  }
}

const download = { "apt-cache": KNOWN, "apt-get": "touch kernel.deb" };

for (const [kind, unpack, tools] of [
  ["plain modules", modules((file) => `printf code > ${file}`), {}],
  ["modules of xz", modules((file) => `printf packed > ${file}.xz`), { xz: "printf code" }],
  ["modules of zstd", modules((file) => `printf packed > ${file}.zst`), { zstd: "printf code" }],
] as const) {
  test(`a kernel with ${kind}`, (t) => {
    const machine = { ...download, ...tools, "dpkg-deb": `${KERNEL}\n${unpack}` };
    const { kernel } = onMachine(t, machine);
    assert.ok(typeof kernel === "object", String(kernel));
    assert.equal(readFileSync(kernel.image, "utf8"), "kernel\n");
    assert.deepEqual(
      kernel.modules.map((file) => file.replace(/.*\//, "")),
      [...NAMES, "virtio_blk"].map((name, i) => `${i}-${name}.ko`),
    );
    for (const file of kernel.modules) assert.equal(readFileSync(file, "utf8"), "code");
  });
}

test("a kernel with the modules in itself", (t) => {
  const list = modules((file) => `echo ${file.replace(`${LIB}/`, "")} >> ${LIB}/modules.builtin`);
  const machine = { ...download, "dpkg-deb": `${KERNEL}\n${list}` };
  const { kernel } = onMachine(t, machine);
  assert.deepEqual(typeof kernel === "object" && kernel.modules, []);
});

for (const [machine, programs, reason] of [
  [
    "without network",
    { "apt-cache": KNOWN, "apt-get": "echo 'E: Temporary failure resolving' >&2; exit 100" },
    /: apt-get download: E: Temporary failure resolving$/,
  ],
  ["of another distribution", { "apt-cache": "exit 0" }, /: linux-image-cloud-amd64 is unknown here: run /],
  [
    "with another apt-cache",
    { "apt-cache": "echo E: No packages found >&2; exit 100" },
    /No packages found$/,
  ],
  [
    "with another kernel",
    { ...download, "dpkg-deb": KERNEL },
    /: 9\.9-cloud-amd64 has no module virtio_ring$/,
  ],
  [
    "with another package",
    { ...download, "dpkg-deb": "mkdir tree" },
    /: its package has no \/boot\/vmlinuz-\*$/,
  ],
  [
    "whose xz fails",
    {
      ...download,
      "dpkg-deb": `${KERNEL}\n${modules((file) => `touch ${file}.xz`)}`,
      xz: "echo broken >&2; exit 1",
    },
    /: xz -dc: broken$/,
  ],
] as const) {
  test(`a machine ${machine}: the reason, and nothing is kept`, (t) => {
    const { kernel, build } = onMachine(t, programs);
    assert.match(String(kernel), /^no Debian kernel to boot: /);
    assert.match(String(kernel), reason);
    assert.ok(!existsSync(build));
  });
}
