/** The processes that the demo starts. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { CliError, signalled } from "./errors.js";
import type { GuestEvent } from "./guest.js";

/** The program itself. */
export const program = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));

/** A process of ours, whose end is noticed. */
export class Child {
  readonly process: ChildProcess;
  readonly name: string;
  /** Rejects if the process ends before it was told to; never resolves. */
  readonly failed: Promise<never>;
  readonly #exited: Promise<number>;
  readonly #errors: string[] = [];
  #stopping = false;
  #ended = false;

  constructor(
    name: string,
    args: string[],
    onLine: (line: string) => void,
    onError?: (line: string) => void,
  ) {
    this.name = name;
    const child = spawn(process.execPath, [program, ...args, "--exit-with-parent"], { stdio: "pipe" });
    this.process = child;
    createInterface({ input: child.stdout }).on("line", onLine);
    createInterface({ input: child.stderr }).on("line", (line) => {
      if (onError) onError(line);
      else this.#errors.push(line);
    });
    this.#exited = new Promise((settle) =>
      child.on("close", (code, signal) => settle(signal ? signalled(signal) : (code ?? 1))),
    );
    this.failed = this.#exited.then((code) => {
      this.#ended = true;
      if (this.#stopping) return new Promise<never>(() => {});
      throw new CliError(
        this.#errors.at(-1)?.replace(/^xbdback: /, "") ?? `the ${name} ended with status ${code}`,
      );
    });
    this.failed.catch(() => {});
  }

  /** The process is about to end by itself, which is right. */
  expectEnd(): Promise<number> {
    this.#stopping = true;
    return this.#exited;
  }

  get ended(): boolean {
    return this.#ended;
  }

  async stop(): Promise<number> {
    this.#stopping = true;
    this.process.kill("SIGTERM");
    return this.#exited;
  }
}

type EventOf<K extends GuestEvent["event"]> = Extract<GuestEvent, { event: K }>;

/** A guest's process, and what it says. */
export class GuestChild extends Child {
  readonly connected: Promise<EventOf<"connected">>;
  readonly listening: Promise<EventOf<"listening">>;
  readonly verified: Promise<EventOf<"verified">>;
  readonly closed: Promise<EventOf<"closed">>;
  onProgress: (done: number) => void = () => {};

  constructor(args: string[]) {
    // Each is there from the start: a guest says several things in one breath.
    const settle = new Map<string, (event: GuestEvent) => void>();
    const expect = <K extends GuestEvent["event"]>(kind: K): Promise<EventOf<K>> =>
      new Promise((resolve) => settle.set(kind, (event) => resolve(event as EventOf<K>)));
    super("guest", ["guest", ...args], (line) => {
      const event = JSON.parse(line) as GuestEvent;
      if (event.event === "progress") this.onProgress(event.done);
      else settle.get(event.event)?.(event);
    });
    this.connected = expect("connected");
    this.listening = expect("listening");
    this.verified = expect("verified");
    this.closed = expect("closed");
  }
}
