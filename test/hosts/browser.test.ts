/** The core in a web page, in headless Chromium: all vectors byte by byte on both builds, and the example page. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, suite, test } from "node:test";
import { absent } from "../support/programs.js";
import { recordVectors } from "./script.js";
import { ROOT } from "./tools.js";

const skip = absent("chromium");

const FLAGS = [
  ..."--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split(" "),
  ..."--disable-background-networking --disable-component-update --disable-dev-shm-usage".split(" "),
];

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".wasm": "application/wasm",
};

/** Tells /result what the replay made of the script on the build that the address names. */
const REPLAY_PAGE = `<!doctype html><script type="module">
  async function play() {
    const { replay } = await import("/build/test/hosts/replay.js");
    const build = location.search.slice(1);
    const module = await WebAssembly.compileStreaming(fetch("/" + build));
    const script = await (await fetch("/script")).text();
    return replay(module, build === "build/blkif.wasm", script);
  }
  const result = await play().catch((error) => String(error.stack));
  await fetch("/result", { method: "POST", body: result });
</script>`;

/** Tells /result what the example's page shows of its responses and in the end. */
const EXAMPLE_PAGE = `<!doctype html><iframe src="/examples/web/index.html"></iframe><script type="module">
  const page = () => document.querySelector("iframe").contentDocument;
  while (!page()?.querySelector("#result")?.textContent) await new Promise((wake) => setTimeout(wake, 20));
  const cells = (row) => Array.from(row.cells, (cell) => cell.textContent).slice(1, 4).join(" ");
  const rows = Array.from(page().querySelectorAll("#ring tr"), cells);
  const body = JSON.stringify([...rows, page().querySelector("#result").textContent]);
  await fetch("/result", { method: "POST", body });
</script>`;

/** Starts Chromium on a page; ends it, with its profile, when `result` is there. */
async function visit(address: string, result: Promise<string>): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), "xbdback-chromium-"));
  const browser: ChildProcess = spawn("chromium", [...FLAGS, `--user-data-dir=${profile}`, address], {
    stdio: "ignore",
    detached: true,
  });
  const ended = once(browser, "exit");
  let timer: NodeJS.Timeout | undefined;
  const early = ended.then(([code]) => Promise.reject(new Error(`chromium ended early, with ${code}`)));
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${address} did not report within 45 s`)), 45_000);
  });
  try {
    return await Promise.race([result, early, late]);
  } finally {
    early.catch(() => {});
    clearTimeout(timer);
    // With its helpers, which are of its group and would go on writing to the profile.
    if (browser.exitCode === null && browser.pid) process.kill(-browser.pid, "SIGKILL");
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 20 });
  }
}

suite("the core in Chromium", { skip }, () => {
  let directory: string;
  let server: Server;
  let origin: string;
  let script: ReturnType<typeof recordVectors>;
  let report: (result: string) => void = () => {};

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? "/", origin);
    if (pathname === "/result") {
      report(Buffer.concat(await request.toArray()).toString());
      response.end();
      return;
    }
    // Pages have shared memory only where these isolate them.
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    response.setHeader("Content-Type", TYPES[extname(pathname)] ?? "text/html");
    if (pathname === "/replay") response.end(REPLAY_PAGE);
    else if (pathname === "/example") response.end(EXAMPLE_PAGE);
    else if (pathname === "/script") response.end(script.text);
    else response.end(readFileSync(join(ROOT, pathname)));
  }

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "xbdback-web-"));
    script = recordVectors();
    server = createServer((request, response) => {
      serve(request, response).catch((error: Error) => response.writeHead(404).end(error.message));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
    rmSync(directory, { recursive: true });
  });

  for (const build of ["build/blkif.wasm", "build/blkif-plain.wasm"]) {
    test(`every vector on ${build}: the same results and the same bytes in memory`, {
      timeout: 60_000,
    }, async () => {
      const result = new Promise<string>((resolve) => {
        report = resolve;
      });
      const found = await visit(`${origin}/replay?${build}`, result);
      assert.equal(found, `${script.vectors} vectors, ${script.calls} calls`);
    });
  }

  test("the example page: answers, and what was written is read", { timeout: 60_000 }, async () => {
    const result = new Promise<string>((resolve) => {
      report = resolve;
    });
    const rows = JSON.parse(await visit(`${origin}/example`, result)) as string[];
    assert.deepEqual(rows, ["102 0 -1", "100 1 0", "101 0 0", "The guest read what it wrote."]);
  });
});
