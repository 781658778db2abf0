/** Copies of the core's sources with a bug in them, to see that the fuzzers find it. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, run } from "../../fuzz/build.js";

export interface Bug {
  readonly name: string;
  /** Under assembly/. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export const BUGS: readonly Bug[] = [
  {
    name: "no check against the size of the disk",
    file: "decode.ts",
    from: "request.sectors > size - request.sector",
    to: "false",
  },
  {
    name: "padding of a response written",
    file: "ring.ts",
    from: "  storeResponse(to, request.id",
    to: "  store<u32>(to + 8, request.operation);\n  storeResponse(to, request.id",
  },
  {
    name: "a response given twice",
    file: "complete.ts",
    from: "  respond(request);",
    to: "  respond(request);\n  if (request.segments == 11) respond(request);",
  },
  {
    name: "what waits is taken up whatever the budget is",
    file: "request.ts",
    from: "i < readyLength && mayTakeUp()",
    to: "i < readyLength",
  },
];

/** Calls `use` with a directory that holds the sources with the bug, and removes it. */
export async function withBug<T>(bug: Bug, use: (root: string) => Promise<T>): Promise<T> {
  const root = mkdtempSync(join(tmpdir(), "xbdback-bug-"));
  try {
    cpSync(join(ROOT, "assembly"), join(root, "assembly"), { recursive: true });
    cpSync(join(ROOT, "asconfig.json"), join(root, "asconfig.json"));
    const path = join(root, "assembly", bug.file);
    const source = readFileSync(path, "utf8");
    if (!source.includes(bug.from)) throw new Error(`assembly/${bug.file} has no "${bug.from}" any more`);
    writeFileSync(path, source.replace(bug.from, bug.to));
    return await use(root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

/** blkif.wasm of such a directory. */
export function compileCore(root: string): WebAssembly.Module {
  return new WebAssembly.Module(compileCoreBytes(root));
}

export function compileCoreBytes(root: string): Buffer<ArrayBuffer> {
  const asc = join(ROOT, "node_modules/assemblyscript/bin/asc.js");
  const file = join(root, "blkif.wasm");
  const options = [
    "--config",
    "asconfig.json",
    "--target",
    "release",
    "--optimizeLevel",
    "0",
    "--outFile",
    file,
  ];
  run(process.execPath, [asc, "assembly/index.ts", ...options], root);
  return readFileSync(file);
}
