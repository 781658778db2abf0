/** Files on a file system that hangs when it is told to. */
import { existsSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Running, Scene } from "../e2e/harness.js";

/** For node:test's `skip`. */
export const NO_FUSE =
  existsSync("/dev/fuse") && process.getuid?.() === 0 ? false : "mounting FUSE needs root and /dev/fuse";

export class HangingFiles {
  readonly #directory: string;
  readonly #server: Running;

  private constructor(directory: string, server: Running) {
    this.#directory = directory;
    this.#server = server;
  }

  static async mount(scene: Scene): Promise<HangingFiles> {
    const directory = scene.path("hanging");
    mkdirSync(directory);
    const program = fileURLToPath(new URL("./fuse-server.js", import.meta.url));
    const server = scene.start(process.execPath, [program, directory]);
    await server.until(/^mounted$/m);
    return new HangingFiles(directory, server);
  }

  /** A file of 1 MiB for each number. */
  path(number: number): string {
    return `${this.#directory}/${number}`;
  }

  async hang(): Promise<void> {
    this.#server.process.kill("SIGUSR1");
    await this.#server.until(/^hangs$/m);
  }

  /** Answers what was asked meanwhile, too. */
  async resume(): Promise<void> {
    this.#server.process.kill("SIGUSR2");
    await this.#server.until(/^answers$/m);
  }

  /** Whatever waits for an answer gets an error. */
  async unmount(): Promise<void> {
    this.#server.process.kill("SIGTERM");
    await this.#server.ended;
  }
}
