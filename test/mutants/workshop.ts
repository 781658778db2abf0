/** A copy of the built tree in which a changed core is compiled and tested: the checkout itself is never touched. */
import { type ChildProcess, spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";

/** What the tests of the core read. They are copies: some tests plant bugs in their turn, where a link would lead out. */
const READ = ["asconfig.json", "assembly", "docs", "package.json", "test"];
const BUILT = ["assembly", "blkif-plain.wasm", "blkif.wasm", "fuzz", "host", "test"];

/** The core as it is released, not optimised: that takes half a minute, and changes nothing that a test sees. */
const TARGET = ["--config", "asconfig.json", "--target", "release", "--optimizeLevel", "0"];

/** What ended it: a test's title, or that it took too long; null where nothing did. */
export type End = string | null;

export class Workshop {
  readonly directory: string;
  /** The module without a change. */
  #original: Buffer | null = null;
  /** Files that have been changed, as they were. */
  readonly #before = new Map<string, string>();
  #child: ChildProcess | null = null;

  private constructor(root: string, directory: string) {
    this.directory = directory;
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(join(directory, "build"), { recursive: true });
    const names = [...READ, ...BUILT.map((name) => join("build", name))];
    for (const name of names) cpSync(join(root, name), join(directory, name), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(directory, "node_modules"));
  }

  /** Copies what is built in `root` to `directory`, a path below it, and compiles the core as it is. */
  static async open(root: string, directory: string): Promise<Workshop> {
    const workshop = new Workshop(root, directory);
    if ((await workshop.compile({})) === "invalid") throw new Error("the core does not compile");
    return workshop;
  }

  /** Compiles the core with other texts of some files, by their paths; says if that makes no other module, or none. */
  async compile(replaced: Readonly<Record<string, string>>): Promise<"changed" | "same" | "invalid"> {
    this.#put(replaced);
    let binary: Uint8Array | undefined;
    const { error } = await asc.main([...TARGET, "--outFile", "blkif.wasm"], {
      readFile: (name, directory) => {
        const file = join(this.directory, directory, name);
        return existsSync(file) ? readFileSync(file, "utf8") : null;
      },
      writeFile: (_, contents) => void (binary = contents as Uint8Array),
      listFiles: () => [],
    });
    if (error || !binary) return "invalid";
    if (this.#original?.equals(binary)) return "same";
    this.#original ??= Buffer.from(binary);
    writeFileSync(join(this.directory, "build/blkif.wasm"), binary);
    return "changed";
  }

  /** In the copy, these texts are in their files, and in all others what was there. */
  #put(replaced: Readonly<Record<string, string>>): void {
    for (const [path, text] of this.#before) writeFileSync(join(this.directory, path), text);
    for (const [path, text] of Object.entries(replaced)) {
      const file = join(this.directory, path);
      if (!this.#before.has(path)) this.#before.set(path, readFileSync(file, "utf8"));
      writeFileSync(file, text);
    }
  }

  /** The files of tests below these folders, by their paths in build/test. */
  testsIn(folders: readonly string[]): string[] {
    return folders.flatMap((folder) =>
      readdirSync(join(this.directory, "build/test", folder))
        .filter((name) => name.endsWith(".test.js"))
        .map((name) => join(folder, name)),
    );
  }

  /** Runs a file of tests until one fails. */
  test(file: string, limitMs: number): Promise<End> {
    return this.#run(["--test-reporter=tap", join(this.directory, "build/test", file)], limitMs);
  }

  /** Fuzzes until something is found. */
  fuzz(seconds: number, seed: number, limitMs: number): Promise<End> {
    const args = ["--seconds", String(seconds), "--seed", String(seed)];
    return this.#run([join(this.directory, "build/fuzz/main.js"), ...args], limitMs);
  }

  close(): void {
    this.#child?.kill("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }

  #run(args: readonly string[], limitMs: number): Promise<End> {
    // A test that runs this is not to have its runner's words.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const child = spawn(process.execPath, args, {
      cwd: this.directory,
      env,
      stdio: ["ignore", "pipe", "ignore"],
    });
    this.#child = child;
    let said = "";
    let end: End = null;
    const kill = (why: string): void => {
      end ??= why;
      child.kill("SIGKILL");
    };
    const late = setTimeout(kill, limitMs, "it does not end");
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      const failed = /^ *not ok \d+ - (.*)$/m.exec(said);
      if (failed) kill(failed[1] as string);
    });
    return new Promise((resolve) => {
      child.on("close", (status) => {
        clearTimeout(late);
        this.#child = null;
        if (status !== 0 && status !== null) end ??= /^execution .*$/m.exec(said)?.[0] ?? `status ${status}`;
        resolve(end);
      });
    });
  }
}
