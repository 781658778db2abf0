/** What stands behind the vbd that is measured: the file itself, or one of the ways to a disk that is no raw file. */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
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

/** Rejects with an Error of one line. */
export async function startBacking(setup: Setup, file: string, scratch: string): Promise<Backing> {
  const raw: Image = { path: file, format: "raw" };
  const backing = { target: file, peer: raw, files: [file], pid: null, stop: async () => {} };
  switch (setup.disk) {
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
      return {
        ...backing,
        target: `qcow2:${own}`,
        peer: { path: peer, format: "qcow2" },
        files: [own, peer],
        stop: async () => [own, peer].forEach((path) => void rmSync(path)),
      };
    }
    case "cow": {
      const overlay = join(scratch, "overlay.cow");
      const stop = async (): Promise<void> => rmSync(overlay, { force: true });
      return { ...backing, target: `cow:${overlay}:${file}`, files: [file, overlay], stop };
    }
  }
}

function converted(file: string, image: string): string {
  const args = ["convert", "-f", "raw", "-O", "qcow2", file, image];
  const { error, status, stderr } = spawnSync("qemu-img", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`qemu-img convert: ${error?.message ?? stderr.trim()}`);
  return image;
}
