/** A frontend whose every key is written by hand. */
import { PAGE_SIZE } from "../../host/core/memory.js";
import { LAYOUTS } from "../../host/guest/layout.js";
import { FrontRing } from "../../host/guest/ring.js";
import type { Guest } from "./harness.js";

export type Keys = Record<string, string | null>;

export class Front {
  readonly guest: Guest;
  readonly directory: string;
  /** Byte offset of the ring that was made last. */
  at = 0;

  constructor(guest: Guest, directory: string) {
    this.guest = guest;
    this.directory = directory;
  }

  /** Grants an empty ring of one page and opens an event channel; the keys that tell of them. */
  async ring(readOnly = false): Promise<Keys> {
    const { pages, events } = this.guest;
    const frame = pages.allocate(1);
    this.at = frame * PAGE_SIZE;
    new FrontRing(pages.memory, this.at, 1, LAYOUTS.x86_64);
    return {
      "ring-ref": String(pages.grant(0, frame, readOnly)),
      "event-channel": String(await events.allocUnbound(0)),
      protocol: "x86_64-abi",
    };
  }

  /** Null removes a key. */
  async write(keys: Keys): Promise<void> {
    await this.guest.xenstore.transaction(async (t) => {
      for (const [key, value] of Object.entries(keys)) {
        if (value === null) await t.remove(`${this.directory}/${key}`);
        else await t.write(`${this.directory}/${key}`, value);
      }
    });
  }

  state(state: number | string): Promise<void> {
    return this.guest.xenstore.write(`${this.directory}/state`, String(state));
  }

  set reqProd(index: number) {
    Atomics.store(this.guest.pages.memory.i32, this.at >>> 2, index | 0);
  }

  get rspProd(): number {
    return Atomics.load(this.guest.pages.memory.i32, (this.at >>> 2) + 2) >>> 0;
  }

  /** Raises our event channel. */
  kick(keys: Keys): void {
    this.guest.events.notify(Number(keys["event-channel"]));
  }
}
