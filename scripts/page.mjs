// Writes build/web, what `serve --http` serves: the sources in web/ with uPlot, which draws the charts, in three files.
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { writeWhole } from "./write-whole.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const directory = join(root, "build/web");
const library = join(root, "node_modules/uplot");

export async function writePage() {
  const { outputFiles } = await build({
    entryPoints: [join(root, "web/page.js"), join(root, "web/page.css")],
    outdir: directory,
    write: false,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    // uPlot's licence asks for its text in copies.
    banner: { js: `/*! With uPlot:\n${readFileSync(join(library, "LICENSE"), "utf8").trim()}\n*/` },
    logLevel: "warning",
  });
  for (const { path, text } of outputFiles) writeWhole(path, text);
  writeWhole(join(directory, "index.html"), readFileSync(join(root, "web/index.html"), "utf8"));
  const written = new Set(["index.html", ...outputFiles.map(({ path }) => basename(path))]);
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    if (!written.has(name)) rmSync(join(directory, name));
  }
}
