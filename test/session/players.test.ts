/** The two players: TypeScript around the shared core, and AssemblyScript around the same sources with plain memory. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { BAD_RING_WRITE } from "../../assembly/session/format.js";
import { buildSession } from "../../fuzz/build.js";
import { sessionOf } from "../../fuzz/run.js";
import { vectorSessions } from "../../fuzz/vectors.js";
import { coreModule } from "../../host/core/load.js";
import { decodeSession, playSession, sessionMemory } from "../../host/session/index.js";
import { BUGS, withBug } from "../fuzz/planted.js";

interface Player {
  readonly memory: WebAssembly.Memory;
  begin(length: number): void;
  next(): number;
  finish(): void;
  enableLog(on: number): void;
  logLength(): number;
  input(): number;
  log(): number;
  violated(): number;
  statics(): number;
}

const memory = sessionMemory();
/** Node 20 dies of SIGSEGV in some runs in a hundred when V8 calls node:wasi by its fast way. */
const WASI_FLAGS = ["--no-warnings", "--no-turbo-fast-api-calls"];
const HOST = fileURLToPath(new URL("wasi-host.js", import.meta.url));

function playHere(bytes: Uint8Array): string {
  return `${playSession(coreModule(), memory, decodeSession(bytes)).join("\n")}\n`;
}

function playPlain(player: Player, bytes: Uint8Array): string {
  let text = "";
  const take = (): void => {
    text += Buffer.from(player.memory.buffer, player.log(), player.logLength()).toString("latin1");
  };
  new Uint8Array(player.memory.buffer).set(bytes, player.input());
  player.enableLog(1);
  player.begin(bytes.length);
  take();
  while (player.next()) take();
  player.finish();
  take();
  return text;
}

/** What the command prints; a violation ends it with a trap, and the log says which. */
function playWasi(modulePath: string, bytes: Uint8Array): string {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, [...WASI_FLAGS, HOST, modulePath], {
    input: bytes,
    encoding: "latin1",
    maxBuffer: 64 << 20,
  });
  assert.equal(signal, null, stderr);
  if (status !== 0) assert.match(stderr, /RuntimeError: unreachable/);
  return stdout;
}

test("both players say the same of the vectors, of generated sessions and of noise", {
  timeout: 120000,
}, () => {
  const module = new WebAssembly.Module(readFileSync(buildSession("release")));
  const player = new WebAssembly.Instance(module).exports as unknown as Player;
  // Nothing that the compiler placed may lie where the player keeps its tables.
  assert.ok(firstWord(player.memory) >= player.statics(), "static data lies in the tables: raise memoryBase");
  let lines = 0;
  for (const { name, bytes } of vectorSessions())
    assert.equal(playPlain(player, bytes), playHere(bytes), name);
  for (let n = 0; n < 400; n++) {
    const bytes = sessionOf(77, n);
    const here = playHere(bytes);
    assert.equal(playPlain(player, bytes), here, `execution ${n} of seed 77`);
    lines += here.split("\n").length;
  }
  assert.ok(lines > 10000, `only ${lines} lines were compared`);
});

/** Address of the first word that is not zero. */
function firstWord({ buffer }: WebAssembly.Memory): number {
  return new Uint32Array(buffer).findIndex((word) => word !== 0) * 4;
}

test("the WASI command says the same", { timeout: 120000 }, () => {
  const module = buildSession("wasi");
  for (let n = 0; n < 25; n++) {
    const bytes = sessionOf(78, n);
    assert.equal(playWasi(module, bytes), playHere(bytes), `execution ${n} of seed 78`);
  }
  assert.equal(playWasi(module, new Uint8Array(0)), playHere(new Uint8Array(0)));
});

test("the WASI command's last words are what the backend did wrong", { timeout: 120000 }, async () => {
  await withBug(BUGS[1], async (root) => {
    const module = buildSession("wasi", root);
    let log: string[] = [];
    // Padding that was zero already does not show.
    for (let n = 0; n < 40 && !log.at(-1)?.startsWith("violation"); n++)
      log = playWasi(module, sessionOf(78, n)).trimEnd().split("\n");
    assert.equal(log.at(-1), `violation ${BAD_RING_WRITE}`);
    assert.match(log.at(-2) ?? "", /^response /);
  });
});
