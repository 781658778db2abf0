/** The main thread's end of the thread of a device. */
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { BUILD } from "../../platform/build.js";
import type { HowToOpen } from "./interface.js";
import type { Description, ModuleAnswer, ModuleRequest, ModuleSettings, Opened } from "./messages.js";

/** Gets why it failed, or null and what was read. */
export type Answered = (error: string | null, bytes: Uint8Array | null) => void;

interface Waiting {
  readonly answered: Answered;
  readonly timer: NodeJS.Timeout;
}

export class ModuleThread {
  /** Why nothing is carried out any more; null while all is well. */
  broken: string | null = null;
  readonly #port: MessagePort;
  readonly #worker: Worker;
  readonly #onBroken: (why: string) => void;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #ended = false;

  /** `onBroken` is called once if the thread ends by itself or does not answer. `say` gets the lines that it prints. */
  constructor(path: string, how: HowToOpen, onBroken: (why: string) => void, say: (line: string) => void) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#onBroken = onBroken;
    const settings: ModuleSettings = { build: BUILD, path, how, port: port2 };
    this.#worker = new Worker(new URL("./module-worker.js", import.meta.url), {
      workerData: settings,
      transferList: [port2],
      stdout: true,
      stderr: true,
    });
    for (const output of [this.#worker.stdout, this.#worker.stderr] as Readable[])
      createInterface({ input: output }).on("line", say);
    this.#worker.on("error", (error: unknown) => this.#break(firstLine(error)));
    this.#worker.on("exit", () => this.#break("its thread has ended"));
  }

  /** What the device says of itself. Rejects with an Error that says why it cannot be opened. */
  opened(milliseconds: number): Promise<Description> {
    return new Promise((resolve, reject) => {
      const give = (why: string): void => {
        clearTimeout(timer);
        reject(new Error(why));
      };
      const timer = setTimeout(give, milliseconds, `it has not opened within ${milliseconds / 1000} s`);
      this.#waiting.set(0, { timer, answered: (why) => give(why as string) });
      this.#port.once("message", (opened: Opened) => {
        this.#waiting.delete(0);
        if ("refusal" in opened) return give(opened.refusal);
        clearTimeout(timer);
        this.#port.on("message", (answer: ModuleAnswer) => this.#heard(answer));
        resolve(opened.device);
      });
    });
  }

  /** `answered` is called once, and not before this returns. */
  ask(request: Omit<ModuleRequest, "id">, milliseconds: number, answered: Answered): void {
    if (this.broken !== null) {
      queueMicrotask(() => answered(this.broken, null));
      return;
    }
    const id = this.#nextId++;
    const { operation, bytes } = request;
    const late = `a ${operation} has not ended within ${milliseconds / 1000} s`;
    const timer = setTimeout(() => this.#break(late), milliseconds);
    this.#waiting.set(id, { answered, timer });
    this.#port.postMessage({ ...request, id }, bytes ? [bytes.buffer as ArrayBuffer] : []);
  }

  /** Ends it, whatever it does. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.#worker.terminate();
    this.#port.close();
  }

  /** One that answers again is not heard. */
  #heard({ id, error, bytes }: ModuleAnswer): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    waiting.answered(error, bytes);
  }

  #break(why: string): void {
    if (this.broken !== null || this.#ended) return;
    this.broken = why;
    // So that nothing of it happens after the guest has heard that it failed.
    void this.#worker.terminate();
    this.#onBroken(why);
    for (const { answered, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      answered(why, null);
    }
    this.#waiting.clear();
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0];
}
