/** Where a daemon keeps its rings' journals: in memory, which outlives the daemon and not the machine. */
import { mkdirSync } from "node:fs";
import { paths } from "../platform/loopback/layout.js";
import type { Platform } from "../platform/platform.js";
import { Journals } from "../vbd/journals.js";

/** A tmpfs on every system that runs Xen's toolstack. */
const XEN_DIRECTORY = "/run/xbdback/journals";

/** Where it notes which images its vbds have. */
export function recordsDirectory(platform: Platform): string {
  return platform.kind === "xen" ? "/run/xbdback/images" : paths.images(platform.directory);
}

/** Where the writes are kept that servers have not flushed. */
export function keptDirectory(platform: Platform): string {
  return platform.kind === "xen" ? "/run/xbdback/kept-writes" : paths.keptWrites(platform.directory);
}

/** Where it notes which images snapshots have replaced, and which overlays were written back: on a disk, which outlives a reboot. */
export function replacedDirectory(platform: Platform): string {
  return platform.kind === "xen" ? "/var/lib/xbdback/replaced" : paths.replacedImages(platform.directory);
}

/** Where helpers have their sockets. */
export function helpersDirectory(platform: Platform): string {
  return platform.kind === "xen" ? "/run/xbdback/helpers" : paths.helpers(platform.directory);
}

/** Throws the error of mkdir(2) when they cannot be there. */
export function openJournals(platform: Platform, kind: string): Journals {
  const directory = platform.kind === "xen" ? XEN_DIRECTORY : paths.journals(platform.directory);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return new Journals(directory, kind);
}
