#!/usr/bin/env node
// The command. In a checkout that has not been built yet, it sets itself up first.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const setup = new URL("../scripts/setup.mjs", import.meta.url);
const main = new URL("../build/host/cli/main.js", import.meta.url);
if (!existsSync(fileURLToPath(main)) && existsSync(fileURLToPath(setup))) await import(setup.href);
const { run } = await import(main.href);
await run(process.argv);
