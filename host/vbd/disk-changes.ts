/**
 * Another disk for a vbd while its guest works, on somebody's word: a medium in a CD-ROM drive (exchange.ts), an overlay over
 * the image that it has, or the image below its overlay (snapshot.ts). What is in flight ends on the old one; then the rings
 * are released and taken over, as after a restart.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BlockDevice } from "../storage/device.js";
import type { OpenOptions } from "../storage/open.js";
import { type BackendKeys, howToOpen } from "./backend-keys.js";
import type { Connection } from "./connection.js";
import type { Connector } from "./connector.js";
import { quote } from "./diagnostics.js";
import { changeMessage, Exchange, type Medium, mediumKeys } from "./exchange.js";
import type { VbdHost } from "./host.js";
import type { Verdict } from "./hotplug.js";
import { imageOf, type Kind } from "./kind.js";
import { type VbdId, vbdName } from "./name.js";
import { type Commit, type Copied, type Replacing, StillUsed } from "./snapshot.js";
import { writeInState } from "./xenbus.js";

export interface DiskChangesOptions {
  readonly host: VbdHost;
  readonly id: VbdId;
  readonly kind: Kind;
  /** The backend's. */
  readonly directory: string;
  readonly connector: Connector;
  /** The vbd's, by now. */
  readonly connection: () => Connection | null;
  /** A line for the operator, of one of few kinds. */
  readonly say: (kind: string, line: string) => void;
  /** Something is to be done. */
  readonly look: () => void;
  /** Releases a connection's rings, for a takeover. */
  readonly release: (connection: Connection) => Promise<void>;
}

/** What the takeover that follows is to be called: by what the guest has then, and after how many milliseconds. */
type Message = (now: string, pauseMs: number) => [kind: string, line: string];

/** A disk that waits for the guest's rings to be released, and who waits for it. */
interface Pending {
  readonly replacing: Replacing;
  readonly message: (before: string) => Message;
  /** What is said where it fails, before the reason. */
  readonly no: string;
  readonly done: (error: Error | null) => void;
}

/** The guest has closed the disk, and nothing was done. */
class Dropped extends Error {}

/** How often a guest that connects or leaves just now is waited for. */
const AGAIN_MS = 50;

export class DiskChanges {
  readonly #options: DiskChangesOptions;
  readonly #exchange: Exchange;
  #pending: Pending | null = null;
  /** What is being done with the disk: one thing at a time. */
  #doing: string | null = null;
  /** Of the present takeover. */
  #message: Message | null = null;

  constructor(options: DiskChangesOptions) {
    this.#options = options;
    const { host, id, say } = options;
    this.#exchange = new Exchange(host, id, (line) => say("warning", line));
  }

  /**
   * Puts a medium into a CD-ROM drive, or none, for `""`. After the next look a connected guest has it; rejects with why it
   * cannot be had, and the drive keeps what it has.
   */
  async change(
    target: string,
    keys: BackendKeys | null,
    store: Verdict | null,
    connection: Connection | null,
  ): Promise<void> {
    const { host, id, kind, directory, connector, look } = this.#options;
    if (!keys?.cdrom)
      throw new Error(`${vbdName(id)} is no CD-ROM drive; only the medium of such a drive can be changed`);
    if (store && "waits" in store) throw new Error(`${vbdName(id)} waits for ${store.waits}`);
    const path = imageOf(kind, target, true);
    if (path === null)
      throw new Error(`${quote(target)} is no target: name an image or device by its absolute path`);
    const announce = async (): Promise<void> => {
      const changes = await mediumKeys(kind, path, keys);
      if (!(await writeInState(host.xenstore, directory, keys.state, changes)))
        throw new Error("the toolstack has changed the drive meanwhile; try again");
    };
    if (connection) {
      await this.#exchange.prepare(path, keys, connection.device.sectorSize, announce);
      look();
    } else {
      await connector.holdOther(keys, path);
      await announce();
    }
  }

  /**
   * Puts an overlay over the disk, which is a point in time from then on. Resolves with the target that the disk has then, once
   * that is open; rejects with why there is no snapshot, and the disk is as it was.
   */
  async snapshot(overlay: string, keys: BackendKeys | null, store: Verdict | null): Promise<string> {
    const { id } = this.#options;
    const { snapshot } = this.#options.host;
    if (!snapshot) throw new Error("this backend makes no snapshots");
    return this.#alone("a snapshot is being made", keys, store, async (path, how) => {
      const made = await snapshot(path, how, id, overlay);
      await this.#replace(made, "no snapshot", snapshotMessage);
      return made.target;
    });
  }

  /**
   * Writes the disk's overlay back into the image below it, which the disk is from then on. Resolves once that is open; rejects
   * with why not, also when the signal comes, and the disk is as it was.
   */
  async commit(
    keys: BackendKeys | null,
    store: Verdict | null,
    signal: AbortSignal,
    progress: (copied: Copied) => void,
  ): Promise<Pick<Commit, "target" | "overlay">> {
    const { id, host } = this.#options;
    const begin = host.commit;
    if (!begin) throw new Error("this backend writes nothing back");
    return this.#alone("its overlay is being written back", keys, store, async (path, how) => {
      const commit = await begin(path, how, id);
      try {
        await this.#replace(commit.begin, "no commit", beginMessage);
        const copying = commit.copy(signal, progress);
        const failure = await copying.then(
          () => null,
          (error: Error) => error,
        );
        await this.#end(commit, failure);
        const { target, overlay } = commit;
        return { target, overlay };
      } finally {
        commit.close();
      }
    });
  }

  /** The guest may come and go meanwhile. */
  async #end(commit: Commit, failure: Error | null): Promise<void> {
    const message = failure ? backMessage(failure) : commitMessage;
    for (let done = false; !done; ) {
      if (!commit.present) throw failure ?? new Error("the disk was closed meanwhile; it is as it was");
      try {
        await this.#replace(commit.end, "no commit", message);
        done = true;
      } catch (error) {
        if (!(error instanceof Dropped || error instanceof StillUsed)) throw error;
        await sleep(AGAIN_MS);
      }
    }
    if (failure) throw failure;
  }

  /** Does one thing with the disk that the toolstack has given to the vbd. */
  async #alone<T>(
    what: string,
    keys: BackendKeys | null,
    store: Verdict | null,
    work: (path: string, how: OpenOptions) => Promise<T>,
  ): Promise<T> {
    const { id, say } = this.#options;
    const name = vbdName(id);
    if (!keys || !store || !("path" in store)) throw new Error(`${name} has no disk yet; try again`);
    if (keys.cdrom) throw new Error(`${name} is a CD-ROM drive, whose medium is only read`);
    if (this.#doing !== null) throw new Error(`${name}: ${this.#doing} already; try again later`);
    this.#doing = what;
    try {
      const warn = (line: string): void => say("warning", line);
      return await work(store.path, { ...howToOpen(keys), warn });
    } finally {
      this.#doing = null;
    }
  }

  /** Resolves when the vbd has another disk. Rejects with why it has not. */
  async #replace(replacing: Replacing, no: string, message: Pending["message"]): Promise<void> {
    const ended = new Promise<Error | null>((resolve) => {
      this.#pending = { replacing, message, no, done: resolve };
    });
    if (this.#options.connection()) this.#options.look();
    else await this.#withoutGuest();
    const error = await ended;
    if (error) throw error;
  }

  async #withoutGuest(): Promise<void> {
    const { replacing, done } = this.#take() as Pending;
    let error: Error | null = null;
    const device = await replacing.finish((why) => {
      error = why;
    });
    // It is kept open for the vbd all the same.
    await device.close();
    done(error);
  }

  /** True when the rings of a connected frontend were released, to be taken over by the next look. */
  async carryOut(keys: BackendKeys, store: Verdict | null, connection: Connection): Promise<boolean> {
    const pending = this.#take();
    if (pending) return this.#putInPlace(keys, connection, pending);
    const medium = this.#exchange.take();
    if (medium) return this.#putIn(keys, connection, medium);
    const path = store && "path" in store ? store.path : null;
    if (keys.cdrom && path !== null && this.#exchange.wants(path, connection.path))
      this.#exchange
        .prepare(path, keys, connection.device.sectorSize, async () => {})
        .then(this.#options.look, ({ message }: Error) =>
          this.#options.say("medium", `${message}; the drive keeps ${connection.device.name}`),
        );
    return false;
  }

  /** Says what a takeover was for. False where it was for nothing that was done here. */
  tell({ device, handoverMs }: Connection): boolean {
    const message = this.#message;
    this.#message = null;
    if (message) this.#options.say(...message(device.name, handoverMs ?? 0));
    return message !== null;
  }

  /** There is no guest any more that waits for it. Resolves when all is closed. */
  async drop(): Promise<void> {
    this.#message = null;
    await this.#exchange.drop();
    const pending = this.#take();
    if (!pending) return;
    await pending.replacing.drop();
    pending.done(new Dropped("the guest has closed the disk meanwhile; try again"));
  }

  #take(): Pending | null {
    const pending = this.#pending;
    this.#pending = null;
    return pending;
  }

  async #putIn(keys: BackendKeys, connection: Connection, { path, prepared }: Medium): Promise<boolean> {
    const { connector, release, look } = this.#options;
    const device = prepared.take();
    if (device === null) {
      await prepared.drop();
      return false;
    }
    await release(connection);
    const before = connection.device.name;
    this.#message = (now, pauseMs) => ["change", changeMessage(before, now, pauseMs)];
    connector.goOn(path, keys.mode, device);
    look();
    return true;
  }

  async #putInPlace(keys: BackendKeys, connection: Connection, pending: Pending): Promise<boolean> {
    const { connector, release, look, say } = this.#options;
    const { replacing, message, no, done } = pending;
    await release(connection);
    const finish = async (): Promise<BlockDevice> => {
      let error: Error | null = null;
      const failed = (why: Error): void => {
        error = why;
        this.#message = null;
        say("medium", `${no}: ${why.message}; the disk is as it was`);
      };
      try {
        return await replacing.finish(failed);
      } catch (why) {
        error ??= why as Error;
        throw why;
      } finally {
        done(error);
      }
    };
    this.#message = message(connection.device.name);
    connector.goOnWith(connection.path, keys.mode, finish());
    look();
    return true;
  }
}

function snapshotMessage(before: string): Message {
  return (now, pauseMs) => [
    "snapshot",
    `snapshot: ${before} is a point in time, and ${now} has what is written from now on; ${waited(pauseMs)}`,
  ];
}

function beginMessage(before: string): Message {
  return (_, pauseMs) => [
    "commit begins",
    `commit: the overlay of ${before} is being written back; ${waited(pauseMs)}`,
  ];
}

function commitMessage(before: string): Message {
  return (now, pauseMs) => [
    "commit",
    `commit: ${before} is written back, and the disk is ${now} from now on; ${waited(pauseMs)}`,
  ];
}

function backMessage({ message }: Error): Pending["message"] {
  return () => (_, pauseMs) => ["medium", `no commit: ${message}; the disk is as it was; ${waited(pauseMs)}`];
}

function waited(pauseMs: number): string {
  return `the guest waited for ${pauseMs.toFixed(0)} ms`;
}
