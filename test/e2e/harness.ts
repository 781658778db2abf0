/** What the end-to-end tests share: running commands as a user would, and seeing that they leave nothing behind. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { absent, assertAsked, type Program, searchPath } from "../support/programs.js";
import type { FakeServiceManager } from "../support/service-manager.js";

export const MIB = 1 << 20;
/** XBDBACK_TEST=full runs everything, which takes minutes. */
export const full = process.env["XBDBACK_TEST"] === "full";
/** The repository, or wherever build/ and node_modules/ are. */
export const root = fileURLToPath(new URL("../../../", import.meta.url));
const command = join(root, "bin/xbdback.mjs");
const MARK = "XBDBACK_E2E";
/** For a command that should take a second or two: the machine may be busy. */
const PATIENCE_SECONDS = 60;
const GRACE_MS = 60_000;

/** A command that has ended. */
export class Outcome {
  readonly command: string;
  readonly status: number | null;
  readonly signal: string | null;
  /** As latin1: a character is a byte. */
  readonly stdout: string;
  readonly stderr: string;

  constructor(running: Running, status: number | null, signal: string | null) {
    this.command = running.command;
    this.status = status;
    this.signal = signal;
    this.stdout = running.stdout;
    this.stderr = running.stderr;
  }

  /** For a failure message. */
  get story(): string {
    const end = this.signal ?? `status ${this.status}`;
    return `${this.command}\nended with ${end}\n-- stdout:\n${this.stdout}\n-- stderr:\n${this.stderr}`;
  }

  /** Throws with all that the command said unless it ended with this status. */
  expect(status: number): this {
    assert.ok(this.status === status, `wanted status ${status}: ${this.story}`);
    return this;
  }

  /** Throws with all that the command said unless its stdout, or else the given stream, matches. */
  expectMatch(pattern: RegExp, stream: "stdout" | "stderr" = "stdout"): RegExpMatchArray {
    const match = this[stream].match(pattern);
    assert.ok(match, `wanted ${pattern} on ${stream}: ${this.story}`);
    return match;
  }
}

interface Start {
  /** In a process group of its own. */
  readonly own?: boolean;
  /** Of this process, for the command after the first three. */
  readonly descriptors?: readonly number[];
}

/** A command under way. */
export class Running {
  readonly command: string;
  readonly process: ChildProcess;
  /** Rejects, and kills the command, when it takes too long. */
  readonly ended: Promise<Outcome>;
  stdout = "";
  stderr = "";
  readonly #scene: Scene;
  #changed: () => void = () => {};
  #over = false;

  constructor(
    scene: Scene,
    program: string,
    args: readonly string[],
    { env, own = false, descriptors = [] }: Start & { readonly env: NodeJS.ProcessEnv },
  ) {
    assertAsked(program, args);
    this.#scene = scene;
    this.command = [program, ...args].join(" ");
    const child = spawn(program, args, {
      cwd: scene.directory,
      env,
      detached: own,
      stdio: ["ignore", "pipe", "pipe", ...descriptors],
    });
    this.process = child;
    child.stdout?.setEncoding("latin1").on("data", (text) => this.#take("stdout", text));
    child.stderr?.setEncoding("latin1").on("data", (text) => this.#take("stderr", text));
    this.ended = new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (status, signal) => {
        this.#over = true;
        this.#changed();
        resolve(new Outcome(this, status, signal));
      });
    });
    this.ended.catch(() => {});
  }

  get pid(): number {
    assert.ok(this.process.pid, `${this.command} does not run`);
    return this.process.pid;
  }

  /** Sends the signal to the whole group, as a terminal does. Only for a command with a group of its own. */
  signalGroup(signal: NodeJS.Signals): void {
    process.kill(-this.pid, signal);
  }

  /** Resolves when stdout matches; rejects if that is not so in time, or the command ends before. */
  async until(pattern: RegExp, seconds = PATIENCE_SECONDS): Promise<RegExpMatchArray> {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const match = this.stdout.match(pattern);
      if (match) return match;
      const why = this.#over ? "ended without" : Date.now() > end ? "took too long with" : null;
      assert.ok(
        !why,
        `${this.command}\n${why} ${pattern}\n-- stdout:\n${this.stdout}\n-- stderr:\n${this.stderr}`,
      );
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
        setTimeout(resolve, 1000).unref();
      });
    }
  }

  /** The outcome, or a failure with all the output so far after so many seconds. */
  async outcome(seconds = PATIENCE_SECONDS): Promise<Outcome> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      // Its children, too, hold its stdout.
      this.#scene.killAll();
    }, seconds * 1000);
    const outcome = await this.ended;
    clearTimeout(timer);
    assert.ok(!late, `killed after ${seconds} seconds: ${outcome.story}`);
    return outcome;
  }

  #take(stream: "stdout" | "stderr", text: string): void {
    this[stream] += text;
    this.#changed();
  }
}

/** A test, or whatever else has an end. */
export type Ending = Pick<TestContext, "after">;

/** A directory of a test's own, and the processes that it starts. */
export class Scene {
  readonly directory: string;
  readonly #mark = randomUUID();
  /** TMPDIR of all that runs here. */
  readonly #scratch: string;
  readonly #started: Running[] = [];

  constructor(t: Ending) {
    this.directory = mkdtempSync(join(tmpdir(), "xbdback-e2e-"));
    this.#scratch = join(this.directory, "tmp");
    mkdirSync(this.#scratch);
    t.after(() => this.#clear());
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** A new file full of this, or an empty one of this size. */
  image(name: string, content: Uint8Array | number): string {
    const path = this.path(name);
    writeFileSync(path, typeof content === "number" ? "" : content);
    if (typeof content === "number") truncateSync(path, content);
    return path;
  }

  /** Starts a command in the directory; `own`: in a process group of its own. */
  start(program: string, args: readonly string[], own = false, service?: FakeServiceManager): Running {
    const started = service?.start(program, args) ?? { program, args, environment: {} };
    const env = {
      ...process.env,
      PATH: searchPath(),
      TMPDIR: this.#scratch,
      LC_ALL: "C.UTF-8",
      [MARK]: this.#mark,
      ...started.environment,
    };
    const running = new Running(this, started.program, started.args, { ...started, env, own });
    this.#started.push(running);
    return running;
  }

  startDemo(...args: string[]): Running {
    return this.start(process.execPath, [command, "demo", ...args], true);
  }

  /** Runs a command to its end and checks that it was happy. */
  async run(program: string, ...args: string[]): Promise<Outcome> {
    return (await this.start(program, args).outcome()).expect(0);
  }

  /** Runs `xbdback demo` to its end and checks that it left nothing behind. */
  async demo(...args: string[]): Promise<Outcome> {
    const running = this.start(process.execPath, [command, "demo", ...args]);
    return this.checkLeft(await running.outcome());
  }

  /** Throws if the demo left a process, or a directory of its machine or of its own. */
  checkLeft(outcome: Outcome): Outcome {
    const left = this.processes().map(({ pid, args }) => `${pid} ${args.join(" ")}`);
    assert.deepEqual(left, [], `processes are left: ${outcome.story}`);
    assert.deepEqual(readdirSync(this.#scratch), [], `files are left in TMPDIR: ${outcome.story}`);
    for (const directory of machines(outcome)) {
      assert.ok(!existsSync(directory), `${directory} is left: ${outcome.story}`);
    }
    return outcome;
  }

  /** The processes of this test that live, and their command lines. */
  processes(): { pid: number; args: string[] }[] {
    const pids = readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name));
    return pids.flatMap((pid) => {
      try {
        // Of a process that has ended and was not waited for, both are empty.
        if (!readFileSync(`/proc/${pid}/environ`, "latin1").includes(`${MARK}=${this.#mark}\0`)) return [];
        return [{ pid: Number(pid), args: readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0") }];
      } catch {
        return [];
      }
    });
  }

  /** The demo's process that plays this part. */
  part(name: "serve" | "guest"): number {
    const found = this.processes().filter(({ args }) => args[2] === name);
    assert.equal(found.length, 1, `processes of \`xbdback ${name}\``);
    return found[0].pid;
  }

  killAll(): void {
    for (const { pid } of this.processes()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended meanwhile.
      }
    }
  }

  /** Takes away what a failed test, or a process that was killed, has left. */
  #clear(): void {
    this.killAll();
    for (const directory of [this.directory, ...this.#started.flatMap(machines)]) {
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    }
  }
}

/** The directories of the loopback machines that a demo named. */
function machines(output: { stdout: string; stderr: string }): string[] {
  return [...`${output.stdout}${output.stderr}`.matchAll(/^machine (\S+): /gm)].map(([, path]) => path);
}

/** Resolves when the condition holds; rejects with `what` when that takes longer than some seconds. */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  what: string,
  withinMs = GRACE_MS,
): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await condition())) {
    assert.ok(Date.now() < end, what);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** A test that needs these programs, and is skipped where one is missing, or for another reason. */
export function e2e(
  title: string,
  programs: readonly Program[],
  body: (scene: Scene, t: TestContext) => Promise<void>,
  objection: string | false = false,
): void {
  const skip = absent(...programs) || objection;
  test(title, { skip, timeout: 3 * PATIENCE_SECONDS * 1000 }, (t) => body(new Scene(t), t));
}
