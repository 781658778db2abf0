/**
 * Another disk in the place of the one that a connected frontend uses: the medium of a CD-ROM drive. The new one is open, and
 * nobody else's, before the old one is released, so that one of them is always locked.
 *
 * What is in flight ends on the old one. Then the rings are released and taken over as after a restart (adoption.ts), by
 * whatever thread serves the new one. The guest sees a pause, and hears of the new size.
 */
import type { BlockDevice } from "../storage/device.js";
import { type BackendKeys, howToOpen } from "./backend-keys.js";
import type { VbdHost } from "./host.js";
import { publishedKeys } from "./hotplug.js";
import { type Kind, NO_MEDIUM } from "./kind.js";
import type { VbdId } from "./name.js";

/** A disk that is open beside the one in use. */
export interface Prepared {
  readonly device: BlockDevice;
  /** It is the vbd's from now on. Null where the vbd has lost the one that it had: it is to be dropped then. */
  take(): BlockDevice | null;
  /** It is not wanted any more. Resolves when it is closed. */
  drop(): Promise<void>;
}

/** What is to be put in the place of what a vbd has. */
export interface Medium {
  readonly path: string;
  readonly prepared: Prepared;
}

export class Exchange {
  readonly #host: VbdHost;
  readonly #id: VbdId;
  readonly #warn: (line: string) => void;
  #medium: Medium | null = null;
  /** One at a time. */
  #opening = false;
  /** What the toolstack has asked for and cannot be had. */
  #refused: string | null = null;

  constructor(host: VbdHost, id: VbdId, warn: (line: string) => void) {
    this.#host = host;
    this.#id = id;
    this.#warn = warn;
  }

  /** Whether what the toolstack's keys name is to be prepared. */
  wants(path: string, current: string): boolean {
    if (path === current) this.#refused = null;
    return path !== current && path !== this.#refused && !this.#busy;
  }

  get #busy(): boolean {
    return this.#opening || this.#medium !== null;
  }

  /**
   * Opens a medium for a drive whose guest knows its sectors to be of so many bytes. When `announce` has said that it is to be
   * there, it is, for {@link take}. Rejects with why it cannot be had; the drive keeps what it has.
   */
  async prepare(
    path: string,
    keys: BackendKeys,
    sectorSize: number,
    announce: () => Promise<void>,
  ): Promise<void> {
    const { prepare } = this.#host;
    if (!prepare) throw new Error("this backend exchanges no disks");
    if (this.#busy) throw new Error("its medium is being changed already; try again");
    this.#opening = true;
    try {
      const prepared = await prepare(path, { ...howToOpen(keys), warn: this.#warn }, this.#id);
      try {
        check(prepared.device, sectorSize);
        await announce();
      } catch (error) {
        await prepared.drop();
        throw error;
      }
      this.#medium = { path, prepared };
      this.#refused = null;
    } catch (error) {
      this.#refused = path;
      throw error;
    } finally {
      this.#opening = false;
    }
  }

  /** The medium that is to be put in, once. */
  take(): Medium | null {
    const medium = this.#medium;
    this.#medium = null;
    return medium;
  }

  /** There is no guest any more that waits for it. Resolves when it is closed. */
  async drop(): Promise<void> {
    await this.take()?.prepared.drop();
  }
}

/** A frontend reads the size of a sector once. */
function check({ name, sectorSize }: BlockDevice, known: number): void {
  if (sectorSize <= known) return;
  throw new Error(
    `${name} has sectors of ${sectorSize} bytes, and the guest knows the drive's to be of ${known}: detach the drive, and attach it with this medium`,
  );
}

/** The toolstack's keys that name a medium. */
export async function mediumKeys(
  kind: Kind,
  path: string,
  { physicalDevice, physicalDevicePath }: BackendKeys,
): Promise<Record<string, string | null>> {
  const params = kind.formatted && path.startsWith("/") ? `raw:${path}` : path;
  if (!kind.hotplug) return { params };
  const none = {
    ...(physicalDevice === null ? {} : { "physical-device": null }),
    ...(physicalDevicePath === null ? {} : { "physical-device-path": null }),
  };
  return { params, ...none, ...(path === NO_MEDIUM ? {} : await publishedKeys(path)) };
}

/** For the operator. */
export function changeMessage(before: string, now: string, pauseMs: number): string {
  return `${now} is in the drive, where ${before} was; the guest waited for ${pauseMs.toFixed(0)} ms`;
}
