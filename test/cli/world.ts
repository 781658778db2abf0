/** A loopback machine, a daemon and guests, each a process that a user would start, and a shell to type commands into. */
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Outcome, type Running, root, Scene } from "../e2e/harness.js";
import type { FakeServiceManager } from "../support/service-manager.js";

const command = join(root, "bin/xbdback.mjs");
export const LIMIT = { timeout: 120_000 };
export const MIB = 1 << 20;

export class World {
  readonly scene: Scene;
  readonly directory: string;
  daemon: Running;
  readonly #serve: readonly string[];
  readonly #service: FakeServiceManager | undefined;

  private constructor(
    scene: Scene,
    directory: string,
    serve: readonly string[],
    service?: FakeServiceManager,
  ) {
    this.#serve = serve;
    this.#service = service;
    this.scene = scene;
    this.directory = directory;
    this.daemon = this.#startDaemon();
  }

  /** The command itself. */
  get program(): string {
    return command;
  }

  /** A machine with guests 1 and 2, and a daemon that serves it. */
  static start(t: TestContext, ...serve: string[]): Promise<World> {
    return World.startUnder(undefined, t, ...serve);
  }

  /** The same, with daemons that a service manager starts. */
  static async startUnder(
    service: FakeServiceManager | undefined,
    t: TestContext,
    ...serve: string[]
  ): Promise<World> {
    const scene = new Scene(t);
    const directory = scene.path("machine");
    const machine = scene.start(process.execPath, [
      command,
      "machine",
      directory,
      "--guests",
      "1,2",
      "--memory",
      "64M",
    ]);
    await machine.until(/^machine /m);
    const world = new World(scene, directory, serve, service);
    await world.#answers();
    return world;
  }

  /** The next daemon, where the one before has ended. */
  async serveAgain(...more: string[]): Promise<void> {
    this.daemon = this.#startDaemon(...more);
    await this.#answers();
  }

  #startDaemon(...more: string[]): Running {
    const args = [command, "serve", "--directory", this.directory, ...this.#serve, ...more];
    return this.scene.start(process.execPath, args, false, this.#service);
  }

  async #answers(): Promise<void> {
    while ((await this.run("list")).status !== 0) await pause(50);
  }

  /** A command under way, which is told of the machine as a user would: in the environment of its shell. */
  start(...args: string[]): Running {
    const line = `XBDBACK_DIRECTORY='${this.directory}' exec '${process.execPath}' '${command}' "$@"`;
    return this.scene.start("sh", ["-c", line, "xbdback", ...args]);
  }

  /** Runs a command to its end. */
  run(...args: string[]): Promise<Outcome> {
    return this.start(...args).outcome();
  }

  /** Runs a command that has to succeed, with --json, and returns what it printed. */
  async json<T = Record<string, unknown>>(...args: string[]): Promise<T> {
    return JSON.parse((await this.run(...args, "--json")).expect(0).stdout) as T;
  }

  /** A guest that works on its disk until it is stopped. */
  async guest(domid = 1, ...args: string[]): Promise<Running> {
    const guest = this.start("guest", "--domid", String(domid), "--workload", "1000000000", ...args);
    await guest.until(/"connected"/);
    return guest;
  }

  image(name: string, bytes = 16 * MIB): string {
    return this.scene.image(name, bytes);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
