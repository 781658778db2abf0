/** The core as people embed it from TypeScript: its types in their project, and the example. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { ROOT } from "../hosts/tools.js";

const project = mkdtempSync(join(tmpdir(), "xbdback-embed-"));
after(() => rmSync(project, { recursive: true, force: true }));
mkdirSync(join(project, "node_modules/@types"), { recursive: true });
symlinkSync(ROOT, join(project, "node_modules/xbdback"));
symlinkSync(join(ROOT, "node_modules/@types/node"), join(project, "node_modules/@types/node"));
writeFileSync(join(project, "package.json"), '{ "type": "module" }\n');

function node(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: project, encoding: "utf8" });
  assert.equal(status, 0, `${stdout}${stderr}`);
  return stdout;
}

/** Compiles a file of the project: strict, declarations of libraries included. */
function compile(file: string, types: string): void {
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  const strict = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess"];
  const module = ["--module", "nodenext", "--moduleResolution", "nodenext", "--target", "es2022"];
  node(tsc, "--ignoreConfig", ...strict, ...module, "--lib", "es2022", "--types", types, file);
}

test("the types of xbdback/core need neither the DOM's nor Node's", () => {
  writeFileSync(
    join(project, "consumer.ts"),
    `import { abi, allocateMemory, BlkifCore, compileCore, type LinearMemory, type RingConfig } from "xbdback/core";
export function attach(wasm: Uint8Array, config: RingConfig): BlkifCore {
  const memory: LinearMemory = allocateMemory(abi.MEMORY_BYTES);
  const buffer: ArrayBuffer = memory.memory.buffer;
  if (buffer.byteLength !== abi.MEMORY_BYTES) throw new Error("size");
  const core = new BlkifCore(compileCore(wasm), memory);
  const code: number = core.attach(config);
  if (code !== abi.ATTACH_OK) throw new Error(String(code));
  return core;
}
`,
  );
  compile("consumer.ts", "");
  const run = `
    import { readFileSync } from "node:fs";
    import { attach } from "./consumer.js";
    const wasm = readFileSync(new URL(import.meta.resolve("xbdback/core/blkif.wasm")));
    const config = { abi: 0, ringPages: 1, features: 0, domid: 1, sectors: 8, sectorSize: 512, maxIndirect: 0 };
    console.log(attach(wasm, config).step(0));`;
  assert.equal(node("--input-type=module", "-e", run), "0\n");
});

test("the memory has exactly MEMORY_BYTES", () => {
  const run = `
    import { readFileSync } from "node:fs";
    import { abi, allocateMemory, BlkifCore, compileCore } from "xbdback/core";
    const module = compileCore(readFileSync(new URL(import.meta.resolve("xbdback/core/blkif.wasm"))));
    for (const more of [-65536, 0, 65536]) {
      try {
        new BlkifCore(module, allocateMemory(abi.MEMORY_BYTES + more));
        console.log(more, "taken");
      } catch (error) {
        console.log(more, error.name);
      }
    }`;
  assert.equal(node("--input-type=module", "-e", run), "-65536 LinkError\n0 taken\n65536 LinkError\n");
});

test("the example in TypeScript compiles, and its guest reads what it wrote", () => {
  cpSync(join(ROOT, "examples/typescript/host.ts"), join(project, "host.ts"));
  compile("host.ts", "node");
  assert.deepEqual(node("host.js").split("\n"), [
    "write 4096 bytes at sector 8",
    "read 4096 bytes at sector 8",
    "2 responses; the guest read what it wrote",
    "",
  ]);
});
