/**
 * Disks that other backends of this domain serve, as xenstore has them. QEMU's qdisk locks no image (it opens with
 * locking=off), and not every backend of the kernel does, so the toolstack's keys are all there is to know of them.
 */
import type { Xenstore } from "../platform/ports.js";
import { parseState, XenbusState } from "../platform/xenbus-state.js";
import { soon } from "../storage/calls/answers.js";
import { type Use, usesOf } from "../storage/disk.js";
import { modeFor, parseMode } from "../vbd/backend-keys.js";

/** The directories below `backend/` of disks. */
const KINDS = ["vbd", "vbd3", "qdisk", "tap"];
/** What libxl puts in front of a path, with whatever format QEMU is to see in it. */
const FORMAT = /^[a-z0-9]+:(?=\/)/;

/** Who is asked about a disk has just looked at it, so its storage answers at once. One that does not is another one. */
const ANSWER_MS = 1000;

export interface OtherDisk {
  readonly domid: number;
  readonly uses: readonly Use[];
  /** For people. */
  readonly name: string;
}

export class OtherBackends {
  readonly #xenstore: Xenstore;
  readonly #root: string;
  readonly #kinds: readonly string[];

  /** `domid` is our own, `kind` the directory that we serve. */
  constructor(xenstore: Xenstore, domid: number, kind: string) {
    this.#xenstore = xenstore;
    this.#root = `/local/domain/${domid}/backend`;
    this.#kinds = KINDS.filter((other) => other !== kind);
  }

  /** Those with a file or block device that count for Xen's rules of sharing. */
  async disks(): Promise<OtherDisk[]> {
    const found = await Promise.all(this.#kinds.map((kind) => this.#ofKind(kind)));
    return found.flat();
  }

  async #ofKind(kind: string): Promise<OtherDisk[]> {
    const looks: Promise<OtherDisk>[] = [];
    for (const domid of await this.#names(kind)) {
      for (const devid of await this.#names(`${kind}/${domid}`)) {
        const name = `${kind}/${domid}/${devid}`;
        const uses = this.#usesOf(`${this.#root}/${name}`);
        looks.push(uses.then((uses) => ({ domid: Number(domid), uses, name: `backend/${name}` })));
      }
    }
    return Promise.all(looks);
  }

  async #usesOf(directory: string): Promise<Use[]> {
    const keys = ["state", "params", "mode", "device-type"];
    const read = keys.map((key) => this.#xenstore.read(`${directory}/${key}`));
    const [state, params, mode, type] = await Promise.all(read);
    const path = params?.replace(FORMAT, "") ?? "";
    const { readOnly, shared } = parseMode(modeFor(mode, type === "cdrom"));
    if (!path.startsWith("/") || shared || parseState(state) === XenbusState.Closed) return [];
    const uses = usesOf(path, readOnly).catch(() => []);
    return (await soon(uses, ANSWER_MS)) ?? [];
  }

  async #names(below: string): Promise<string[]> {
    return (await this.#xenstore.directory(`${this.#root}/${below}`)) ?? [];
  }
}
