#!/usr/bin/env node
// The command. In a checkout that has not been built yet, it sets itself up first.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const setup = new URL("../scripts/setup.mjs", import.meta.url);
const bundle = (name) => new URL(`../build/host/bundle/${name}.js`, import.meta.url);
const main = bundle("main");
if (!existsSync(fileURLToPath(main)) && existsSync(fileURLToPath(setup))) await import(setup.href);
// Guests may wait: the thread that will serve them loads its modules beside this one.
if (process.argv[2] === "serve") (await import(bundle("spare").href)).prepareThread();
const { run } = await import(main.href);
await run(process.argv);
