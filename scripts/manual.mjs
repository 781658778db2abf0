// Writes build/man: the pages of packaging/man, with what they say of commands and keys made of the program itself.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const root = new URL("../", import.meta.url);

export async function writeManual() {
  const { commandSections, keyList } = await import(new URL("build/host/cli/manual.js", root).href);
  const { program } = await import(new URL("build/host/cli/main.js", root).href);
  const made = {
    COMMANDS: () => commandSections(program()),
    KEYS: () => keyList(program().commands.find((command) => command.name() === "serve")),
  };
  mkdirSync(new URL("build/man/", root), { recursive: true });
  for (const page of readdirSync(new URL("packaging/man/", root))) {
    const text = readFileSync(new URL(`packaging/man/${page}`, root), "utf8");
    const filled = text.replace(/^\.\\" (COMMANDS|KEYS)$/gm, (_, name) => made[name]());
    writeFileSync(new URL(`build/man/${page}`, root), filled);
  }
}
