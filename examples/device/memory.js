// A disk in memory, as a device of your own for xbdback:
//
//   xbdback serve --device "$PWD/examples/device/memory.js"
//   xbdback attach 1 "vdev=xvdb,target=device:$PWD/examples/device/memory.js?size=64M"
//
// host/storage/module/interface.ts describes all that a device may have.
// @ts-check

const UNITS = { "": 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

/** @param {string} text */
function bytesOf(text) {
  const [, number, unit] = /^([0-9]+)([KMG]?)$/.exec(text) ?? [];
  const size = Number(number) * UNITS[/** @type {keyof typeof UNITS} */ (unit)];
  if (!(size > 0)) throw new Error(`"${text}" is no size: write ?size=64M`);
  return size;
}

/** @implements {import("xbdback/device").Device} */
class MemoryDisk {
  #content;

  /** @param {number} size */
  constructor(size) {
    this.#content = new Uint8Array(size);
    this.size = size;
    // Nothing survives the daemon, so there is no `survives`; and nothing is to be flushed.
  }

  /** @param {number} position @param {Uint8Array} to */
  read(position, to) {
    to.set(this.#content.subarray(position, position + to.length));
  }

  /** @param {number} position @param {Uint8Array} from */
  write(position, from) {
    this.#content.set(from, position);
  }

  /** @param {number} position @param {number} length */
  discard(position, length) {
    this.#content.fill(0, position, position + length);
  }
}

/** @type {import("xbdback/device").DeviceModule} */
export default {
  api: 1,
  open: ({ parameters }) => new MemoryDisk(bytesOf(parameters["size"] ?? "64M")),
};
