/**
 * Whether the path of each disk still leads to what is open. A guest continues with the open file in any case; but the
 * next daemon opens a path, and refuses another file (image-records.ts), so the operator should hear of it before.
 */
import { usesOf } from "../storage/disk.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import { describeImage, type ImageState } from "../vbd/status.js";
import type { Log } from "../vbd/vbd-log.js";
import { identitiesOf } from "./image-records.js";

/** What a vbd has open. */
export interface OpenImage {
  readonly vbd: VbdId;
  readonly path: string;
  readonly readOnly: boolean;
  /** See {@link BlockDevice.bases}. */
  readonly bases: readonly string[];
  /** See {@link ImageStatus.imageKept}. */
  readonly kept: boolean;
  /** As {@link identitiesOf}. */
  readonly identities: readonly string[];
}

interface Seen {
  readonly image: OpenImage;
  readonly state: ImageState;
}

const LOOK_MS = 1000;

export class ImageWatch {
  readonly #images: () => readonly OpenImage[];
  readonly #log: Log;
  readonly #timer: NodeJS.Timeout;
  /** By the vbd's name: what was seen last. */
  readonly #seen = new Map<string, Seen>();
  readonly #looking = new Set<OpenImage>();

  /** `images` are all that are open; the same object for the same opening. */
  constructor(images: () => readonly OpenImage[], log: Log) {
    this.#images = images;
    this.#log = log;
    this.#timer = setInterval(() => void this.look(), LOOK_MS).unref();
  }

  /** Looks at all disks, but for those at which the look before is under way: where a file server hangs, say. */
  async look(): Promise<void> {
    const images = this.#images();
    const names = new Set(images.map(({ vbd }) => vbdName(vbd)));
    for (const name of this.#seen.keys()) if (!names.has(name)) this.#seen.delete(name);
    await Promise.all(
      images.filter((image) => !this.#looking.has(image)).map((image) => this.#lookAt(image)),
    );
  }

  async #lookAt(image: OpenImage): Promise<void> {
    this.#looking.add(image);
    try {
      this.#note(image, await stateOf(image));
    } finally {
      this.#looking.delete(image);
    }
  }

  /** "ok" where it has not been looked at yet: it has just been opened. */
  stateOf(image: OpenImage): ImageState {
    const seen = this.#seen.get(vbdName(image.vbd));
    return seen?.image === image ? seen.state : "ok";
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #note(image: OpenImage, state: ImageState | null): void {
    const before = this.stateOf(image);
    // The disk may have been closed meanwhile.
    if (state === null || state === before || !this.#images().includes(image)) return;
    const name = vbdName(image.vbd);
    this.#seen.set(name, { image, state });
    const level = state === "ok" ? "info" : "warning";
    this.#log(`${name}: ${image.path}: ${describeImage({ imageState: state, imageKept: image.kept })}`, {
      vbd: image.vbd,
      level,
    });
  }
}

/** Null where it cannot be told: a file server that does not answer, say. */
async function stateOf({ path, readOnly, bases, identities }: OpenImage): Promise<ImageState | null> {
  const uses = await usesOf(path, readOnly, bases).catch(() => null);
  if (uses === null || uses.length !== identities.length) return null;
  const now = identitiesOf(uses);
  const different = uses.filter((_, i) => identities[i] !== "" && now[i] !== identities[i]);
  if (different.some(({ identity }) => identity !== "")) return "replaced";
  if (different.some(({ missing }) => missing)) return "deleted";
  return different.length === 0 ? "ok" : null;
}
