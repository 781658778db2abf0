/** What the main thread and the thread of a device say to each other. */
import type { MessagePort } from "node:worker_threads";
import type { Device, HowToOpen } from "./interface.js";

export interface ModuleSettings {
  /** See host/platform/build.ts. */
  readonly build: string;
  /** The module's. */
  readonly path: string;
  readonly how: HowToOpen;
  readonly port: MessagePort;
}

/** What there is to know of an open device, as it says. */
export interface Description extends Pick<Device, "size" | "sectorSize" | "survives" | "timeoutSeconds"> {
  readonly writes: boolean;
  readonly flushes: boolean;
  readonly discards: boolean;
}

/** The first thing that the device's thread says. */
export type Opened = { readonly device: Description } | { readonly refusal: string };

export interface ModuleRequest {
  readonly id: number;
  readonly operation: "read" | "write" | "flush" | "discard" | "close";
  readonly position: number;
  readonly length: number;
  /** What is to be written. */
  readonly bytes: Uint8Array | null;
}

export interface ModuleAnswer {
  readonly id: number;
  /** Why it failed, or null. */
  readonly error: string | null;
  /** What was read. */
  readonly bytes: Uint8Array | null;
}
