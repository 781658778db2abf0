/** A WASI host in a few lines: runs the module of the first argument with our standard input and output. */
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1", returnOnExit: true });
const module = new WebAssembly.Module(readFileSync(process.argv[2]));
const instance = new WebAssembly.Instance(module, wasi.getImportObject() as WebAssembly.Imports);
process.exitCode = wasi.start(instance);
