/** A page in headless Chromium, driven over its DevTools protocol on two pipes. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import type { TestContext } from "node:test";
import { absent } from "../support/programs.js";

const FLAGS =
  "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --remote-debugging-pipe";

/** For tests that open one. */
export const BROWSER = { skip: absent("chromium"), timeout: 300_000 };

interface Message {
  readonly id?: number;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export class Chromium {
  readonly #process: ChildProcess;
  readonly #waiting = new Map<number, (message: Message) => void>();
  #session: string | undefined;
  #last = 0;
  readonly #ended: Promise<void>;

  private constructor(profile: string) {
    this.#process = spawn("chromium", [...FLAGS.split(" "), `--user-data-dir=${profile}`, "about:blank"], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
    });
    this.#ended = once(this.#process, "exit").then(() => {
      const message = "Chromium has ended";
      for (const answer of this.#waiting.values()) answer({ error: { message } });
    });
    // What is written after its end.
    (this.#process.stdio[3] as Writable).on("error", () => {});
    let text = "";
    (this.#process.stdio[4] as Readable).setEncoding("utf8").on("data", (data: string) => {
      const messages = (text + data).split("\0");
      text = messages.pop() as string;
      for (const message of messages) this.#take(JSON.parse(message) as Message);
    });
  }

  /** Closed when the test ends. */
  static async open(t: TestContext): Promise<Chromium> {
    const profile = mkdtempSync(join(tmpdir(), "xbdback-chromium-"));
    const browser = new Chromium(profile);
    t.after(async () => {
      await browser.#close();
      await rm(profile, { recursive: true, force: true, maxRetries: 20 });
    });
    const { targetId } = await browser.#call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.#call("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = sessionId as string;
    return browser;
  }

  /** The size of the window, in CSS pixels. */
  async resize(width: number, height: number): Promise<void> {
    const size = { width, height, deviceScaleFactor: 1, mobile: width < 600 };
    await this.#call("Emulation.setDeviceMetricsOverride", size);
  }

  async dark(): Promise<void> {
    const features = [{ name: "prefers-color-scheme", value: "dark" }];
    await this.#call("Emulation.setEmulatedMedia", { features });
  }

  async visit(url: string): Promise<void> {
    await this.#call("Page.navigate", { url });
  }

  /** The value of a JavaScript expression in the page; null where it throws. */
  async evaluate<T>(expression: string): Promise<T | null> {
    const answer = await this.#call("Runtime.evaluate", { expression, returnByValue: true });
    return (answer["result"] as { value?: T }).value ?? null;
  }

  /** Moves the pointer. */
  async point(x: number, y: number): Promise<void> {
    await this.#call("Input.dispatchMouseEvent", { type: "mouseMoved", x, y });
  }

  async screenshot(path: string): Promise<void> {
    const { data } = await this.#call("Page.captureScreenshot", { format: "png" });
    writeFileSync(path, Buffer.from(data as string, "base64"));
  }

  async #close(): Promise<void> {
    // It ends its own processes first, which write to the profile.
    this.#session = undefined;
    await this.#call("Browser.close", {}).catch(() => {});
    await this.#ended;
  }

  async #call(method: string, params: object): Promise<Record<string, unknown>> {
    const id = ++this.#last;
    const session = this.#session === undefined ? {} : { sessionId: this.#session };
    const message = new Promise<Message>((resolve) => this.#waiting.set(id, resolve));
    (this.#process.stdio[3] as Writable).write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    const { result, error } = await message;
    if (error) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  }

  #take(message: Message): void {
    if (message.id === undefined) return;
    this.#waiting.get(message.id)?.(message);
    this.#waiting.delete(message.id);
  }
}
