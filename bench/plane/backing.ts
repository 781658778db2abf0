/** What stands behind the vbd that is measured: the file itself, or one of the ways to a disk that is no raw file. */
import { spawnSync } from "node:child_process";
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { makeOverlay } from "../../host/storage/helper/make-overlay.js";
import { NbdServer } from "./peers.js";
import type { Image, Setup } from "./rows.js";

export interface Backing {
  /** For the toolstack. */
  readonly target: string;
  /** For qemu-nbd, beside xbdback: the same in the same format. */
  readonly peer: Image;
  /** What is written. */
  readonly files: readonly string[];
  /** The process that xbdback is a client of, where it did not start it itself. */
  readonly pid: number | null;
  stop(): Promise<void>;
}

/** Behind xbdback, and beside it. */
const BOTH = ["qemu-nbd", "qemu-storage-daemon"];

/** Rejects with an Error of one line, also where a program is missing (by name, what to say of it). */
export async function startBacking(
  setup: Setup,
  file: string,
  scratch: string,
  missing: ReadonlyMap<string, string>,
): Promise<Backing> {
  const { disk } = setup;
  const raw: Image = { path: file, format: "raw" };
  const backing = { target: file, peer: raw, files: [file], pid: null, stop: async () => {} };
  const needed = { file: [], nbd: ["qemu-nbd"], qcow2: BOTH, cow: BOTH }[disk];
  for (const program of needed) if (missing.has(program)) throw new Error(missing.get(program));
  switch (disk) {
    case "file":
      return backing;
    case "nbd": {
      const server = await NbdServer.start("qemu-nbd", setup, raw, join(scratch, "behind.sock"));
      const { socket, pid } = server;
      return { ...backing, target: `nbd+unix:///?socket=${socket}`, pid, stop: () => server.stop() };
    }
    case "qcow2": {
      // One each: two that write to one image would spoil it.
      const [own, peer] = ["own.qcow2", "peer.qcow2"].map((name) => converted(file, join(scratch, name)));
      const [target, files] = [`qcow2:${own}`, [own, peer]];
      return { ...backing, target, peer: { path: peer, format: "qcow2" }, files, stop: () => removed(files) };
    }
    case "cow": {
      // Its own is made when it is attached.
      const [own, peer] = ["own.qcow2", "peer.qcow2"].map((name) => join(scratch, name));
      await makeOverlay(peer, raw, statSync(file).size, true);
      const [target, files] = [`cow:${own}:${file}`, [own, peer]];
      return { ...backing, target, peer: { path: peer, format: "qcow2" }, files, stop: () => removed(files) };
    }
  }
}

async function removed(files: readonly string[]): Promise<void> {
  for (const file of files) rmSync(file, { force: true });
}

/** `image`, a qcow2 image made of a raw one. */
export function converted(file: string, image: string): string {
  const args = ["convert", "-f", "raw", "-O", "qcow2", file, image];
  const { error, status, stderr } = spawnSync("qemu-img", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`qemu-img convert: ${error?.message ?? stderr.trim()}`);
  return image;
}
