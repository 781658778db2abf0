/** Debian's NBD programs against the server: nbdinfo and nbdcopy (libnbd-bin), qemu-img and qemu-io, fio. */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { absent, assertAsked, type Program } from "../support/programs.js";
import { errorWithCode, MemoryDisk } from "./memory-disk.js";
import { serve } from "./serve.js";

const limit = { timeout: 120_000 };
const MIB = 1 << 20;

interface Finished {
  code: number;
  stdout: string;
  output: string;
}

/** Runs a program to its end; never rejects for what the program says. */
function run(cwd: string, program: string, ...args: string[]): Promise<Finished> {
  assertAsked(program);
  return new Promise((resolve) => {
    execFile(program, args, { cwd, timeout: 120_000 }, (error, stdout, stderr) => {
      const code = error ? Number(error.code ?? -1) : 0;
      resolve({ code, stdout, output: `${program} ${args.join(" ")}: ${stdout}${stderr}` });
    });
  });
}

async function succeed(cwd: string, program: string, ...args: string[]): Promise<string> {
  const { code, stdout, output } = await run(cwd, program, ...args);
  assert.equal(code, 0, output);
  return stdout;
}

/** A test that needs `program`. */
function programTest(program: Program, title: string, body: (t: TestContext) => Promise<void>): void {
  test(`${program}: ${title}`, { ...limit, skip: absent(program) }, body);
}

/** Random data with holes in it. */
function image(size: number): Buffer {
  const bytes = randomBytes(size);
  bytes.fill(0, size >> 2, size >> 1);
  return bytes;
}

programTest("nbdinfo", "shows what the disk can do", () =>
  serve(
    new MemoryDisk({ size: 3 * MIB, physicalSectorSize: 8192 }),
    async ({ server, directory }) => {
      const { exports } = JSON.parse(await succeed(directory, "nbdinfo", "--json", server.uri));
      const shown = exports[0];
      assert.equal(shown["export-size"], 3 * MIB);
      assert.equal(shown.description, "a guest's disk");
      for (const can of ["can_df", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"]) {
        assert.equal(shown[can], true, can);
      }
      for (const not of ["is_read_only", "can_cache", "can_fast_zero"]) assert.equal(shown[not], false, not);
      assert.equal(shown.block_size_minimum ?? shown["block-size-minimum"], 512);
      assert.equal(shown.block_size_preferred ?? shown["block-size-preferred"], 8192);
      assert.equal(shown.block_size_maximum ?? shown["block-size-maximum"], 32 * MIB);
      assert.match(await succeed(directory, "nbdinfo", "--list", server.uri), /export=""/);
    },
    { description: "a guest's disk" },
  ),
);

programTest("nbdcopy", "copies in and out over several connections", async () => {
  const disk = new MemoryDisk({ size: 24 * MIB });
  disk.content.fill(0xee);
  let turn = 0;
  disk.before = () => (turn++ % 3 ? undefined : new Promise((resolve) => setImmediate(resolve)));
  await serve(disk, async ({ server, directory }) => {
    const data = image(disk.size);
    await writeFile(join(directory, "in.img"), data);
    const several = ["--connections=4", "--requests=32"];
    await succeed(directory, "nbdcopy", ...several, "--flush", "in.img", server.uri);
    assert.ok(disk.content.equals(data), "copied in");
    assert.equal(disk.log.at(-1), "flush");
    await succeed(directory, "nbdcopy", ...several, server.uri, "out.img");
    assert.ok((await readFile(join(directory, "out.img"))).equals(data), "copied out");
  });
});

programTest("nbdcopy", "copies a disk of 4096-byte sectors with small requests", async () => {
  const disk = new MemoryDisk({ size: 4 * MIB, sectorSize: 4096 });
  await serve(disk, async ({ server, directory }) => {
    const data = image(disk.size);
    await writeFile(join(directory, "in.img"), data);
    await succeed(directory, "nbdcopy", "--request-size=4096", "in.img", server.uri);
    assert.ok(disk.content.equals(data));
  });
});

programTest("nbdcopy", "fails when the disk fails", async () => {
  const disk = new MemoryDisk();
  disk.before = (operation, position) => {
    if (operation === "write" && position >= 512 << 10) throw errorWithCode("ENOSPC");
  };
  await serve(disk, async ({ server, directory }) => {
    await writeFile(join(directory, "in.img"), randomBytes(disk.size));
    const { code, output } = await run(directory, "nbdcopy", "in.img", server.uri);
    assert.notEqual(code, 0);
    assert.match(output, /No space left/);
  });
});

programTest("qemu-img", "compares and converts both ways", async () => {
  const disk = new MemoryDisk({ size: 8 * MIB });
  disk.content.fill(0xee);
  await serve(disk, async ({ server, directory }) => {
    await writeFile(join(directory, "in.img"), image(disk.size));
    const raw = ["-f", "raw"];
    await succeed(directory, "qemu-img", "convert", "-n", ...raw, "-O", "raw", "in.img", server.uri);
    await succeed(directory, "qemu-img", "compare", ...raw, "-F", "raw", "in.img", server.uri);
    await succeed(directory, "qemu-img", "convert", ...raw, "-O", "qcow2", server.uri, "out.qcow2");
    await succeed(directory, "qemu-img", "compare", ...raw, "-F", "qcow2", server.uri, "out.qcow2");
    disk.content[5 * MIB] ^= 1;
    const { code } = await run(directory, "qemu-img", "compare", ...raw, "-F", "raw", "in.img", server.uri);
    assert.equal(code, 1, "a difference is found");
  });
});

async function qemuIo(cwd: string, uri: string, ...commands: string[]): Promise<string> {
  const flags = commands[0] === "-r" ? ["-r"] : [];
  const list = commands.slice(flags.length).flatMap((command) => ["-c", command]);
  const { stdout, output } = await run(cwd, "qemu-io", ...flags, "-f", "raw", "-t", "none", ...list, uri);
  return `${stdout}\n${output}`;
}

programTest("qemu-io", "writes with FUA, trims, zeroes, flushes and verifies", async () => {
  const disk = new MemoryDisk({ size: 2 * MIB });
  disk.content.fill(0x11);
  await serve(disk, async ({ server, directory }) => {
    const said = await qemuIo(
      directory,
      server.uri,
      "write -f -P 0xab 64k 64k",
      "read -P 0xab 64k 64k",
      "write -z 128k 1M",
      "read -P 0 128k 1M",
      "discard 0 64k",
      "flush",
    );
    assert.doesNotMatch(said, /failed|error/i);
    const after = disk.log.slice(disk.log.indexOf("write 65536+65536"));
    assert.equal(after[1], "flush", "FUA flushes");
    assert.ok(disk.log.includes("discard 0+65536"));
    assert.equal(disk.content[0], 0xdd);
    assert.equal(disk.content[64 << 10], 0xab);
    assert.equal(disk.content[128 << 10], 0);
    assert.equal(disk.content[(128 << 10) + MIB], 0x11);
  });
});

programTest("qemu-io", "is told that a disk is read-only, and that I/O failed", async () => {
  const readOnly = new MemoryDisk({ readOnly: true });
  await serve(readOnly, async ({ server, directory }) => {
    assert.match(await qemuIo(directory, server.uri, "write 0 4k"), /read-only|not permitted|Permission/i);
    assert.match(await qemuIo(directory, server.uri, "-r", "read 0 4k"), /4096\/4096 bytes/);
    assert.ok(!readOnly.log.some((entry) => entry.startsWith("write")));
  });
  const broken = new MemoryDisk();
  broken.before = (_, position) => {
    if (position >= 65536) throw errorWithCode("EIO");
  };
  await serve(broken, async ({ server, directory }) => {
    const said = await qemuIo(directory, server.uri, "read 64k 4k", "write 64k 4k", "read 0 4k");
    assert.match(said, /read failed: Input\/output error/);
    assert.match(said, /write failed: Input\/output error/);
    assert.match(said, /read 4096\/4096 bytes/);
  });
});

programTest("fio", "verifies random mixed sizes 32 deep over two jobs", async (t) => {
  const disk = new MemoryDisk({ size: 16 * MIB });
  disk.logging = false;
  let turn = 0;
  disk.before = () => (turn++ % 5 ? undefined : new Promise((resolve) => setImmediate(resolve)));
  await serve(disk, async ({ server, directory }) => {
    if (spawnSync("fio", ["--enghelp=nbd"]).status !== 0) return t.skip("this fio has no nbd engine");
    const job = [
      "--ioengine=nbd",
      `--uri=${server.uri}`,
      "--iodepth=32",
      "--rw=randrw",
      "--bsrange=512-128k",
    ];
    const check = ["--verify=crc32c", "--verify_fatal=1", "--bs_unaligned=0", "--blockalign=512"];
    const two = ["--size=8m", "--numjobs=2", "--offset_increment=8m", "--group_reporting"];
    await succeed(directory, "fio", "--name=verify", ...job, ...check, ...two);
    assert.ok(disk.mostUnderWay > 16, `${disk.mostUnderWay} at once`);
  });
});
