// A file as a whole or as it was: who is killed while writing leaves no half of one.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** A name beside `path` to write to before it is renamed. */
export function unfinished(path) {
  return `${path}.unfinished-${process.pid}`;
}

/** Writes a text if the file does not have it yet. */
export function writeWhole(path, text) {
  if (existsSync(path) && readFileSync(path, "utf8") === text) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(unfinished(path), text);
  renameSync(unfinished(path), path);
}
