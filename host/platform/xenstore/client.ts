/** The {@link Xenstore} port over the wire protocol, for any platform. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Xenstore, XenstoreError, type XenstoreTransaction, type XenstoreWatch } from "../ports.js";
import { EventQueue, type Receiver } from "./events.js";
import { Exchange } from "./exchange.js";
import { Gate } from "./gate.js";
import { type ByteStream, connectSocket } from "./stream.js";
import { decodeStrings, encodeStrings, MessageType } from "./wire.js";

const ATTEMPTS = 32;
/** Milliseconds: the bound of the first pause between attempts, and of any. */
const FIRST_PAUSE = 1;
const LONGEST_PAUSE = 32;
/** Attempts beside other transactions of this client; the later ones are made alone. */
const PATIENCE = 4;
/** Transactions open at once; xenstored gives a driver domain 10. */
const OPEN_TRANSACTIONS = 8;

/**
 * Connects to xenstored's Unix socket. Rejects with a {@link XenstoreError} that says what to do; `absent` is said where
 * nobody listens, in place of a question for xenstored.
 */
export async function connectXenstore(socketPath: string, absent?: string): Promise<Xenstore> {
  return openXenstore(await connectSocket(socketPath, absent));
}

/**
 * Speaks to xenstored over any stream. Beyond what {@link Xenstore} says:
 *
 * - Requests are sent at once, without waiting for the answers of those before, unless the stream holds one only.
 * - A watch's callback runs on a turn of the event loop of its own, never before `watch` has settled. If it throws, a
 *   process warning says so, and nothing else is disturbed.
 * - When more than 4096 paths wait for delivery, a watch gets one call with the path that it watches in place of
 *   those that wait for it: look at all below.
 * - At most 8 transactions are open at once; others wait. The body of one must not start another. One that meets conflict
 *   after conflict is alone in the end: some xenstoreds let a transaction fail for any other that was committed.
 * - Values are UTF-8 text; a path or permission with a NUL in it is refused with EINVAL.
 * - `remove` of a missing node is fine, even if its parent is missing too.
 * - Once the connection has ended, all that is pending or asked later rejects; removing a watch still resolves.
 */
export function openXenstore(stream: ByteStream): Xenstore {
  return new Client(new Exchange(stream));
}

/** The requests that may run in a transaction. */
class Requests implements XenstoreTransaction {
  #exchange: Exchange;
  #transactionId: number;
  #over = false;

  constructor(exchange: Exchange, transactionId: number) {
    this.#exchange = exchange;
    this.#transactionId = transactionId;
  }

  async read(path: string): Promise<string | null> {
    const value = await orNull(this.ask(MessageType.read, "read", [path]));
    return value?.toString("utf8") ?? null;
  }

  async write(path: string, value: string): Promise<void> {
    await this.ask(MessageType.write, "write", [path], Buffer.from(value, "utf8"));
  }

  async directory(path: string): Promise<string[] | null> {
    try {
      const names = await orNull(this.ask(MessageType.directory, "directory", [path]));
      return names && decodeStrings(names);
    } catch (error) {
      if (!hasCode(error, "E2BIG")) throw error;
      return this.#longDirectory(path);
    }
  }

  async mkdir(path: string): Promise<void> {
    await this.ask(MessageType.mkdir, "mkdir", [path]);
  }

  async remove(path: string): Promise<void> {
    // xenstored says ENOENT only if the parent is missing as well.
    await orNull(this.ask(MessageType.remove, "remove", [path]));
  }

  async setPermissions(path: string, permissions: readonly string[]): Promise<void> {
    await this.ask(MessageType.setPermissions, "set permissions of", [path, ...permissions]);
  }

  async permissions(path: string): Promise<string[] | null> {
    const entries = await orNull(this.ask(MessageType.getPermissions, "get permissions of", [path]));
    return entries && decodeStrings(entries);
  }

  /** After it, nothing can be asked any more: xenstored would take the transaction's number for a missing node. */
  async end(commit: boolean): Promise<void> {
    const answer = this.ask(MessageType.transactionEnd, "transaction", [commit ? "T" : "F"]);
    this.#over = true;
    await answer;
  }

  ask(type: number, verb: string, strings: readonly string[], value?: Buffer): Promise<Buffer> {
    const what = `${verb} ${strings[0]}`;
    if (this.#over) return Promise.reject(new XenstoreError("EINVAL", `${what}: the transaction has ended`));
    if (strings.some((text) => text.includes("\0"))) return Promise.reject(new XenstoreError("EINVAL", what));
    const head = encodeStrings(...strings);
    const payload = value ? Buffer.concat([head, value]) : head;
    return this.#exchange.request(type, payload, this.#transactionId, what);
  }

  /** In parts, from the start again whenever the directory has changed in between. */
  async #longDirectory(path: string): Promise<string[] | null> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const names = await this.#allParts(path);
      if (names !== "changed") return names;
    }
    throw new XenstoreError("EAGAIN", `directory ${path}: it keeps changing`);
  }

  async #allParts(path: string): Promise<string[] | "changed" | null> {
    const names: string[] = [];
    let generation: string | null = null;
    for (let offset = 0; ; ) {
      const part = await orNull(this.ask(MessageType.directoryPart, "directory", [path, `${offset}`]));
      if (!part) return null;
      const [now, ...more] = decodeStrings(part);
      if (now !== (generation ??= now) || more.length === 0) return "changed";
      const last = more.at(-1) === "";
      names.push(...(last ? more.slice(0, -1) : more));
      if (last) return names;
      offset += part.length - now.length - 1;
    }
  }
}

class Client extends Requests implements Xenstore {
  onClose: ((error: Error) => void) | null = null;
  #exchange: Exchange;
  #events = new EventQueue();
  #watches = new Map<string, Receiver>();
  #lastToken = 0;
  readonly #transactions = new Gate(OPEN_TRANSACTIONS);

  constructor(exchange: Exchange) {
    super(exchange, 0);
    this.#exchange = exchange;
    exchange.onEvent = (path, token) => {
      const receiver = this.#watches.get(token);
      if (receiver) this.#events.add(receiver, path);
    };
    exchange.onLost = (error) => {
      this.#watches.clear();
      this.#events.clear();
      this.onClose?.(error);
    };
  }

  async watch(path: string, changed: (path: string) => void): Promise<XenstoreWatch> {
    const token = (this.#lastToken++).toString(36);
    const receiver = { path, changed };
    // Before the answer: the first event comes right behind it.
    this.#watches.set(token, receiver);
    try {
      await this.ask(MessageType.watch, "watch", [path, token]);
    } catch (error) {
      this.#forget(token);
      throw error;
    }
    return { remove: () => this.#unwatch(path, token) };
  }

  async isDomainIntroduced(domid: number): Promise<boolean | null> {
    try {
      const answer = await this.ask(MessageType.isDomainIntroduced, "ask for domain", [`${domid}`]);
      return decodeStrings(answer)[0] === "T";
    } catch (error) {
      if (hasCode(error, "EACCES") || hasCode(error, "EPERM") || hasCode(error, "ENOSYS")) return null;
      throw error;
    }
  }

  async transaction<T>(body: (t: XenstoreTransaction) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      await this.#transactions.enter(attempt > PATIENCE);
      try {
        return await this.#attempt(body);
      } catch (error) {
        if (!hasCode(error, "EAGAIN")) throw error;
        if (attempt === ATTEMPTS) {
          throw new XenstoreError("EAGAIN", `transaction: others interfered with all ${ATTEMPTS} attempts`);
        }
      } finally {
        this.#transactions.leave();
      }
      await sleep(Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt));
    }
  }

  close(): void {
    this.#watches.clear();
    this.#events.clear();
    this.#exchange.close();
  }

  async #attempt<T>(body: (t: XenstoreTransaction) => Promise<T>): Promise<T> {
    const answer = await this.ask(MessageType.transactionStart, "start a transaction", [""]);
    const requests = new Requests(this.#exchange, Number(decodeStrings(answer)[0]));
    let result: T;
    try {
      result = await body(requests);
    } catch (error) {
      // The body's error is the one to report, whatever becomes of the transaction.
      await requests.end(false).catch(() => {});
      throw error;
    }
    await requests.end(true);
    return result;
  }

  async #unwatch(path: string, token: string): Promise<void> {
    if (!this.#watches.has(token)) return;
    this.#forget(token);
    await orNull(this.ask(MessageType.unwatch, "unwatch", [path, token]));
  }

  #forget(token: string): void {
    const receiver = this.#watches.get(token);
    if (receiver) this.#events.drop(receiver);
    this.#watches.delete(token);
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof XenstoreError && error.code === code;
}

async function orNull(answer: Promise<Buffer>): Promise<Buffer | null> {
  try {
    return await answer;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return null;
    throw error;
  }
}
