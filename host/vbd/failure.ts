/** Why a vbd does not work, as everybody finds it: /local/domain/<be>/error/<node>/error (xenbus_dev_fatal). */
import type { Xenstore } from "../platform/ports.js";
import { DeviceError } from "../storage/open.js";
import { printable } from "./diagnostics.js";

/** errno of a failure that is not a system call's. */
const EINVAL = 22;

export class Failure {
  readonly #xenstore: Xenstore;
  readonly #node: string;
  #message: string | null = null;

  /** `node` is the vbd's as xenbus calls it: "backend/vbd/1/51712". */
  constructor(xenstore: Xenstore, domid: number, node: string) {
    this.#xenstore = xenstore;
    this.#node = `/local/domain/${domid}/error/${node}`;
  }

  get message(): string | null {
    return this.#message;
  }

  /** Writes "<errno> <text>". Rejects if xenstore does not let us; it is remembered all the same. */
  async report(error: Error): Promise<void> {
    this.#message = error.message;
    const errno = error instanceof DeviceError ? error.errno : EINVAL;
    await this.#xenstore.write(`${this.#node}/error`, `${errno} ${printable(error.message)}`);
  }

  async clear(): Promise<void> {
    if (this.#message === null) return;
    await this.#xenstore.remove(this.#node);
    this.#message = null;
  }
}
