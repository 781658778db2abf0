// Writes build/man: the pages of packaging/man, with what xbdback(8) says of the commands made of the program itself.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const root = new URL("../", import.meta.url);
const COMMANDS = '.\\" COMMANDS\n';

export async function writeManual() {
  const { commandSections } = await import(new URL("build/host/cli/manual.js", root).href);
  const { program } = await import(new URL("build/host/cli/main.js", root).href);
  mkdirSync(new URL("build/man/", root), { recursive: true });
  for (const page of readdirSync(new URL("packaging/man/", root))) {
    const text = readFileSync(new URL(`packaging/man/${page}`, root), "utf8");
    const made = text.includes(COMMANDS)
      ? text.replace(COMMANDS, () => `${commandSections(program())}\n`)
      : text;
    writeFileSync(new URL(`build/man/${page}`, root), made);
  }
}
