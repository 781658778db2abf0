// Writes build/man: the pages of packaging/man, with what they say of commands and keys made of the program itself.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { writeWhole } from "./write-whole.mjs";

const root = new URL("../", import.meta.url);

export async function writeManual() {
  const { commandSections, keyList, liveKeys } = await import(new URL("build/host/cli/manual.js", root).href);
  const { program } = await import(new URL("build/host/cli/main.js", root).href);
  const serve = () => program().commands.find((command) => command.name() === "serve");
  const made = {
    COMMANDS: () => commandSections(program()),
    KEYS: () => keyList(serve()),
    LIVE: () => liveKeys(serve()),
  };
  for (const page of readdirSync(new URL("packaging/man/", root))) {
    const text = readFileSync(new URL(`packaging/man/${page}`, root), "utf8");
    const filled = text.replace(/^\.\\" (COMMANDS|KEYS|LIVE)$/gm, (_, name) => made[name]());
    writeWhole(fileURLToPath(new URL(`build/man/${page}`, root)), filled);
  }
}
