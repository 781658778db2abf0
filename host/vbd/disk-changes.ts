/**
 * Another disk for a vbd while its guest works, on somebody's word: a medium in a CD-ROM drive (exchange.ts), or an overlay over
 * the image that it has (snapshot.ts). What is in flight ends on the old one; then the rings are released and taken over, as
 * after a restart.
 */
import type { BlockDevice } from "../storage/device.js";
import { type BackendKeys, howToOpen } from "./backend-keys.js";
import type { Connection } from "./connection.js";
import type { Connector } from "./connector.js";
import { quote } from "./diagnostics.js";
import { changeMessage, Exchange, type Medium, mediumKeys } from "./exchange.js";
import type { VbdHost } from "./host.js";
import type { Verdict } from "./hotplug.js";
import { imageOf, type Kind } from "./kind.js";
import { type VbdId, vbdName } from "./name.js";
import type { Snapshot } from "./snapshot.js";
import { writeInState } from "./xenbus.js";

export interface DiskChangesOptions {
  readonly host: VbdHost;
  readonly id: VbdId;
  readonly kind: Kind;
  /** The backend's. */
  readonly directory: string;
  readonly connector: Connector;
  /** A line for the operator, of one of few kinds. */
  readonly say: (kind: string, line: string) => void;
  /** Something is to be done. */
  readonly look: () => void;
  /** Releases a connection's rings, for a takeover. */
  readonly release: (connection: Connection) => Promise<void>;
}

/** A snapshot that waits for the guest's rings to be released, and who waits for it. */
interface Pending {
  readonly snapshot: Snapshot;
  readonly done: (error: Error | null) => void;
}

export class DiskChanges {
  readonly #options: DiskChangesOptions;
  readonly #exchange: Exchange;
  #pending: Pending | null = null;
  #snapshotting = false;
  /** What the present takeover is to be called, by what the guest has then, and after how many milliseconds. */
  #message: ((now: string, pauseMs: number) => [kind: string, line: string]) | null = null;

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
  async snapshot(
    overlay: string,
    keys: BackendKeys | null,
    store: Verdict | null,
    connection: Connection | null,
  ): Promise<string> {
    const { host, id, look, say } = this.#options;
    const name = vbdName(id);
    if (!host.snapshot) throw new Error("this backend makes no snapshots");
    if (!keys || !store || !("path" in store)) throw new Error(`${name} has no disk yet; try again`);
    if (keys.cdrom) throw new Error(`${name} is a CD-ROM drive, whose medium is only read`);
    if (this.#snapshotting) throw new Error(`${name}: a snapshot is being made already; try again`);
    this.#snapshotting = true;
    try {
      const warn = (line: string): void => say("warning", line);
      const how = { ...howToOpen(keys), warn };
      const snapshot = await host.snapshot(store.path, how, id, overlay);
      const ended = new Promise<Error | null>((resolve) => {
        this.#pending = { snapshot, done: resolve };
      });
      if (connection) look();
      else await this.#withoutGuest();
      const error = await ended;
      if (error) throw error;
      return snapshot.target;
    } finally {
      this.#snapshotting = false;
    }
  }

  async #withoutGuest(): Promise<void> {
    const { snapshot, done } = this.#take() as Pending;
    let error: Error | null = null;
    const device = await snapshot.finish((why) => {
      error = why;
    });
    // It is kept open for the vbd all the same.
    await device.close();
    done(error);
  }

  /** True when the rings of a connected frontend were released, to be taken over by the next look. */
  async carryOut(keys: BackendKeys, store: Verdict | null, connection: Connection): Promise<boolean> {
    const pending = this.#take();
    if (pending) return this.#putOver(keys, connection, pending);
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
    await pending.snapshot.drop();
    pending.done(new Error("the guest has closed the disk meanwhile; try again"));
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

  async #putOver(keys: BackendKeys, connection: Connection, { snapshot, done }: Pending): Promise<boolean> {
    const { connector, release, look, say } = this.#options;
    await release(connection);
    const before = connection.device.name;
    const finish = async (): Promise<BlockDevice> => {
      let error: Error | null = null;
      const failed = (why: Error): void => {
        error = why;
        this.#message = null;
        say("medium", `no snapshot: ${why.message}; the disk is as it was`);
      };
      try {
        return await snapshot.finish(failed);
      } catch (why) {
        error ??= why as Error;
        throw why;
      } finally {
        done(error);
      }
    };
    this.#message = (now, pauseMs) => ["snapshot", snapshotMessage(before, now, pauseMs)];
    connector.goOnWith(connection.path, keys.mode, finish());
    look();
    return true;
  }
}

/** For the operator. */
function snapshotMessage(before: string, now: string, pauseMs: number): string {
  return `snapshot: ${before} is a point in time, and ${now} has what is written from now on; the guest waited for ${pauseMs.toFixed(0)} ms`;
}
