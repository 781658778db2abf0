/**
 * The daemon's half of the hotplug script block-xbdback. The script writes `hotplug-status` = checking and waits; we
 * open the store and answer with `connected` and where it is, or with `busy` or `error` and a reason in
 * `hotplug-error`, which xl shows. So a disk that cannot be served fails `xl create`, and one that can is ours from then
 * on. Other scripts' disks are opened when their frontend connects.
 */
import type { Xenstore } from "../platform/ports.js";
import { parseState, scanNumber, XenbusState } from "../platform/xenbus-state.js";
import { isBusy, type OpenOptions } from "../storage/open.js";
import { howToOpen, modeFor } from "../vbd/backend-keys.js";
import { printable, quote } from "../vbd/diagnostics.js";
import { publishedKeys } from "../vbd/hotplug.js";
import { imageOf, kindOf, NO_MEDIUM } from "../vbd/kind.js";
import { Looker } from "../vbd/looker.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import type { Log, TellEvent } from "../vbd/vbd-log.js";
import type { Stores } from "./stores.js";

/** What the script writes when it asks. */
const CHECKING = "checking";

export interface HotplugOptions {
  readonly xenstore: Xenstore;
  readonly stores: Stores;
  /** Our own domid. */
  readonly domid: number;
  /** Directory below `backend/`. */
  readonly kind: string;
  readonly log: Log;
  readonly tell: TellEvent;
}

export class Hotplug {
  readonly #options: HotplugOptions;
  readonly #lookers = new Map<string, Looker>();
  /** By name, why a vbd's disk was refused last, which was logged. */
  readonly #refused = new Map<string, string>();
  #stopped = false;

  constructor(options: HotplugOptions) {
    this.#options = options;
  }

  /** Whether the refusal of the vbd's disk is this check's, and logged. */
  told(id: VbdId, why: string): boolean {
    const said = this.#refused.get(vbdName(id));
    return said !== undefined && why.endsWith(said);
  }

  /** Something may have changed in a vbd's directory. Returns at once. */
  look(id: VbdId): void {
    if (this.#stopped) return;
    const name = vbdName(id);
    let looker = this.#lookers.get(name);
    if (!looker) {
      looker = new Looker(
        () => this.#reconcile(id),
        (trouble) => this.#options.log(`${name}: ${trouble}; trying again`, { vbd: id, level: "warning" }),
        () => this.#lookers.delete(name),
      );
      this.#lookers.set(name, looker);
    }
    looker.look();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    const lookers = [...this.#lookers.values()];
    for (const looker of lookers) looker.stop();
    await Promise.all(lookers.map((looker) => looker.settled()));
  }

  async #reconcile(id: VbdId): Promise<void> {
    const { xenstore, stores, domid, kind } = this.#options;
    const directory = `/local/domain/${domid}/backend/${kind}/${id.domid}/${id.devid}`;
    const read = (key: string): Promise<string | null> => xenstore.read(`${directory}/${key}`);
    const [status, state, online] = await Promise.all([
      read("hotplug-status"),
      read("state"),
      read("online"),
    ]);
    const leaves = state === null || (scanNumber(online) !== 1 && parseState(state) >= XenbusState.Closing);
    if (leaves) await stores.release(id);
    if (leaves || status !== CHECKING) return;
    const [params, mode, type, direct] = await Promise.all([
      read("params"),
      read("mode"),
      read("device-type"),
      read("direct-io-safe"),
    ]);
    const cdrom = type === "cdrom";
    const directIoSafe = scanNumber(direct) === 1;
    const how = { cdrom, ...howToOpen({ mode: modeFor(mode, cdrom), cdrom, directIoSafe }) };
    const answer = await this.#verdict(id, params, how);
    if (!(await this.#answer(directory, answer))) await stores.release(id);
  }

  /** The keys to answer with. */
  async #verdict(
    id: VbdId,
    params: string | null,
    how: OpenOptions & { readonly cdrom: boolean },
  ): Promise<Record<string, string>> {
    const { stores, log, tell, kind } = this.#options;
    const warn = (line: string): void =>
      log(`${vbdName(id)}: ${printable(line)}`, { vbd: id, level: "warning" });
    this.#refused.delete(vbdName(id));
    try {
      const path = imageOf(kindOf(kind), params, how.cdrom);
      if (path === null)
        throw new Error(`target is ${quote(params ?? "")}: name an image or device by its absolute path`);
      await stores.hold(path, { ...how, warn }, id);
      if (path === NO_MEDIUM) return { "hotplug-status": "connected" };
      return { ...(await publishedKeys(path)), "hotplug-status": "connected" };
    } catch (error) {
      const { message } = error as Error;
      this.#refused.set(vbdName(id), printable(message));
      log(`${vbdName(id)}: refused: ${printable(message)}`, { vbd: id, level: "error" });
      tell(id, "refused", printable(message));
      return { "hotplug-error": printable(message), "hotplug-status": isBusy(error) ? "busy" : "error" };
    }
  }

  /** False, and nothing written, when nobody waits for an answer any more. */
  #answer(directory: string, keys: Record<string, string>): Promise<boolean> {
    return this.#options.xenstore.transaction(async (t) => {
      if ((await t.read(`${directory}/hotplug-status`)) !== CHECKING) return false;
      for (const [key, value] of Object.entries(keys)) await t.write(`${directory}/${key}`, value);
      return true;
    });
  }
}
