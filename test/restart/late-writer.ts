/**
 * A backend whose writes to the first sectors stay in the kernel, as it were, for a second, and land then, whatever becomes
 * of the process: another one, which has the same open file, makes them. `late-writer.js DIRECTORY` says HELD for each.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type BlockDevice, type Done, type IoVector, views } from "../../host/storage/device.js";
import { libuvEngine } from "../../host/storage/libuv.js";
import { openStore } from "../../host/storage/open.js";
import { RawDevice } from "../../host/storage/raw.js";
import { TestDevice } from "../vbd/device.js";
import { serveDisks } from "./backend.js";

/** Bytes at the disk's beginning whose writes are held back. */
export const HELD_BYTES = 65536;
export const HELD_MS = 1000;

const WRITE = `const [at, hex] = process.argv.slice(1);
setTimeout(() => require("fs").writeSync(3, Buffer.from(hex, "hex"), 0, hex.length / 2, Number(at)), ${HELD_MS});`;

class LateWriter extends TestDevice {
  readonly #fd: number;

  constructor(device: BlockDevice, fd: number) {
    super(device);
    this.#fd = fd;
  }

  override write(position: number, from: IoVector, done: Done): void {
    if (position >= HELD_BYTES) {
      super.write(position, from, done);
      return;
    }
    const hex = Buffer.concat(views(from)).toString("hex");
    spawn(process.execPath, ["-e", WRITE, String(position), hex], {
      stdio: ["ignore", "ignore", "ignore", this.#fd],
      detached: true,
    });
    process.stderr.write("HELD\n");
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await serveDisks(async (path, options) => {
    const store = await openStore(path, options);
    return new LateWriter(new RawDevice(store, libuvEngine), store.fd);
  });
}
