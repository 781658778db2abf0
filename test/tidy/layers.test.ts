/** Folders import each other in one direction only, and few files know how the core's memory is laid out: see layers.ts. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { ROOT } from "../hosts/tools.js";
import { CORE_WITH_NODE, LAYERS } from "./layers.js";

interface Source {
  readonly path: string;
  readonly text: string;
}

function read(folder: string): Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .sort()
    .map((name) => `${folder}/${name}`)
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
}

/** The files that a source imports or starts as a thread, as paths of the repository, and packages by their names. */
function imports({ path, text }: Source): string[] {
  const found = text.matchAll(/\b(?:from|import|import\()\s*"([^"]+)"|new URL\("(\.[^"]+\.js)"/g);
  return [...found].map(([, module, thread]) => {
    const name = module ?? (thread as string);
    return name.startsWith(".") ? normalize(join(dirname(path), name)).replace(/(\.js)?$/, ".ts") : name;
  });
}

function layerOf(path: string): string | undefined {
  return Object.keys(LAYERS).find((layer) => path.startsWith(`${layer}/`));
}

/** Imports that no list of layers.ts has, as "file -> file". */
function backwards(sources: readonly Source[]): string[] {
  return sources.flatMap((source) => {
    const own = layerOf(source.path);
    assert.ok(own !== undefined, `${source.path}: no layer in test/tidy/layers.ts: enter its folder there`);
    return imports(source)
      .filter((target) => /^(assembly|host|test|bench|fuzz|scripts|web)\//.test(target))
      .filter((target) => {
        const layer = layerOf(target);
        return layer !== own && !(layer !== undefined && LAYERS[own]?.includes(layer));
      })
      .map((target) => `${source.path} -> ${target}`);
  });
}

/** Names of abi.ts that say a size, a count or a code: what is left says where something lies in the core's memory. */
const NO_OFFSETS =
  /^(ABI|MAX|BLKIF|ATTACH|STEP|FEATURE|COUNT|IO_RESULT|GNTST)_|_(BYTES|COUNT|VERSION|BUCKETS|PER_SLOT)$|^PAGE$|^COPY_(SOURCE|DEST)_GREF$|^IO_(READ|WRITE|FLUSH|DISCARD|PREFLUSH|FUA|SECURE)$|^JOURNAL_(FREE|BUSY|ANSWERED)$/;
const OFFSETS = new Set(Object.keys(abi).filter((name) => !NO_OFFSETS.test(name)));

/** The offsets of the core's memory that a source uses. */
function offsetsIn({ text }: Source): string[] {
  const [, named = ""] = /import \{([^}]*)\} from "[./]+\/assembly\/abi\.js"/.exec(text) ?? [];
  const used = [...named.split(/[\s,]+/), ...[...text.matchAll(/\babi\.(\w+)/g)].map(([, name]) => name)];
  return [...new Set(used)].filter((name) => OFFSETS.has(name));
}

const host = read("host");
const all = [...read("assembly"), ...host];

test("no folder imports one that stands on it", () => {
  const message = "test/tidy/layers.ts says which folder may import which";
  assert.deepEqual(backwards(all), [], message);
});

test("the order of the folders has no circle", () => {
  const before = new Set<string>();
  for (const [layer, below] of Object.entries(LAYERS)) {
    assert.deepEqual(
      below.filter((name) => !before.has(name)),
      [],
      `${layer}: what it imports comes before it in layers.ts`,
    );
    before.add(layer);
  }
});

test("host/core runs without Node", () => {
  const portable = host.filter(({ path }) => path.startsWith("host/core/"));
  const withNode = portable.filter((source) => imports(source).some((name) => name.startsWith("node:")));
  assert.deepEqual(
    withNode.map(({ path }) => path),
    Object.keys(CORE_WITH_NODE),
  );
});

test("no file outside host/core knows an offset in the core's memory", () => {
  const knowing = host
    .filter(({ path }) => !path.startsWith("host/core/"))
    .map((source) => ({ path: source.path, offsets: offsetsIn(source) }))
    .filter(({ offsets }) => offsets.length > 0)
    .map(({ path, offsets }) => `${path} uses ${offsets.join(", ")}`);
  assert.deepEqual(knowing, [], "read it through host/core/ring-view.ts");
});

test("an import against the order is found, however it is written, and an offset, too", () => {
  const sources = [
    'import { x } from "../vbd/vbd.js";',
    'export { x } from "../vbd/vbd.js";',
    'const x = await import("../vbd/vbd.js");',
    'new Worker(new URL("../vbd/vbd.js", import.meta.url));',
    'import "../../test/vbd/harness.js";',
  ].map((text) => ({ path: "host/storage/x.ts", text }));
  assert.deepEqual(
    backwards(sources),
    ["host/vbd/vbd.ts", "host/vbd/vbd.ts", "host/vbd/vbd.ts", "host/vbd/vbd.ts", "test/vbd/harness.ts"].map(
      (path) => `host/storage/x.ts -> ${path}`,
    ),
  );
  const text =
    'import { MAX_SLOTS, SRING } from "../../assembly/abi.js";\nabi.IOS + abi.IO_BYTES + abi.CONFIG_ABI';
  assert.deepEqual(offsetsIn({ path: "", text }), ["SRING", "IOS", "CONFIG_ABI"]);
});
