/** A domain as the hypervisor keeps it: its files, and who has its ports and pages. */
import { closeSync, ftruncateSync, mkdirSync, openSync, renameSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { PAGE_SIZE, WASM_PAGE } from "../../core/memory.js";
import { type MappedFile, mapFile } from "../mapping.js";
import type { Port, PortSpace } from "./arbiter.js";
import * as words from "./evtchn-words.js";
import { GNTTAB_BYTES } from "./gnttab.js";
import { FIRST_RESERVED_DOMID, paths } from "./layout.js";
import { MAPTRACK_BYTES, Maptrack } from "./maptrack.js";
import { HypervisorError } from "./wire.js";

const LARGEST_MEMORY = 65536 * WASM_PAGE;

export class HostedDomain implements PortSpace {
  readonly domid: number;
  readonly words: Int32Array;
  readonly ports = new Map<number, Port>();
  readonly entries: Int32Array;
  readonly track: Maptrack;
  /** Whether a process is the guest now. */
  pagesInUse = false;
  /** It has stopped to be saved or migrated. Its process is not made to: that is for who plays the guest. */
  suspended = false;
  readonly #directory: string;
  readonly #files: MappedFile[];

  /** Makes the files; they appear under the domain's name all at once. */
  constructor(directory: string, domid: number, memoryBytes: number) {
    checkDomain(directory, domid, memoryBytes);
    const bytes = Math.ceil(memoryBytes / WASM_PAGE) * WASM_PAGE;
    const place = paths.domain(directory, domid);
    const unfinished = `${place}.new`;
    rmSync(unfinished, { recursive: true, force: true });
    mkdirSync(unfinished, { mode: 0o700 });
    makeSparse(join(unfinished, "memory"), bytes);
    makeSparse(join(unfinished, "gnttab"), GNTTAB_BYTES);
    makeSparse(join(unfinished, "maptrack"), MAPTRACK_BYTES);
    makeSparse(join(unfinished, "evtchn"), words.EVTCHN_BYTES);
    const evtchn = mapFile(join(unfinished, "evtchn"), words.EVTCHN_BYTES);
    const gnttab = mapFile(join(unfinished, "gnttab"), GNTTAB_BYTES);
    const maptrack = mapFile(join(unfinished, "maptrack"), MAPTRACK_BYTES);
    this.#files = [evtchn, gnttab, maptrack];
    this.#directory = directory;
    this.domid = domid;
    this.words = evtchn.memory.i32;
    this.entries = gnttab.memory.i32;
    this.track = new Maptrack(maptrack.memory.i32);
    this.track.pages = bytes / PAGE_SIZE;
    renameSync(unfinished, place);
  }

  /** Takes the files away. Processes that have them mapped keep what they have. */
  remove(): void {
    words.markDead(this.words);
    this.track.markDead();
    rmSync(paths.domain(this.#directory, this.domid), { recursive: true, force: true });
    for (const file of this.#files) file.close();
  }
}

function makeSparse(path: string, bytes: number): void {
  const fd = openSync(path, "wx", 0o600);
  ftruncateSync(fd, bytes);
  closeSync(fd);
}

function checkDomain(directory: string, domid: number, memoryBytes: number): void {
  if (!Number.isInteger(domid) || domid < 0 || domid >= FIRST_RESERVED_DOMID) {
    throw new HypervisorError(
      "EINVAL",
      `${domid} is not a domain id: use one from 0 to ${FIRST_RESERVED_DOMID - 1}`,
    );
  }
  if (!(memoryBytes > 0 && memoryBytes <= LARGEST_MEMORY)) {
    throw new HypervisorError(
      "EINVAL",
      `domain ${domid} cannot have ${memoryBytes} bytes of memory: 4 GiB at most`,
    );
  }
  // A write to a page that the file system has no room for kills the process that does it.
  const { bavail, bsize } = statfsSync(directory);
  if (bavail * bsize < memoryBytes) {
    const need = `domain ${domid} needs ${memoryBytes} bytes`;
    throw new HypervisorError(
      "ENOSPC",
      `${need}, and ${directory} has ${bavail * bsize} left: use another directory`,
    );
  }
}
