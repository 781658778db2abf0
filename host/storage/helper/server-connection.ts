/** The connection to a server that a helper talks on: this process has made it, and keeps a copy to see when it breaks. */
import { closeSync } from "node:fs";
import { cutOff, isHungUp, pollHangUp, redirect } from "../../platform/connection.js";
import type { Poll } from "../../platform/libc.js";
import { socketPair } from "../../platform/sharing.js";

export class ServerConnection {
  /** The same number for as long as the disk is open, whatever the connection: the threads that serve the disk know it. */
  readonly fd: number;
  readonly #onBroken: () => void;
  #poll: Poll | null = null;

  /** Broken until there is one. `onBroken` is called at most once for each. */
  constructor(onBroken: () => void) {
    const [fd, other] = socketPair();
    closeSync(other);
    this.fd = fd;
    this.#onBroken = onBroken;
  }

  get broken(): boolean {
    return isHungUp(this.fd);
  }

  /** Takes another connection over. To be called when no thread waits for an answer over the last one. */
  replace(fd: number): void {
    this.#poll?.close();
    redirect(this.fd, fd);
    closeSync(fd);
    const poll = pollHangUp(this.fd, () => {
      poll.close();
      if (this.#poll === poll) this.#onBroken();
    });
    this.#poll = poll;
  }

  /** Ends it, and with it the helper's wait for a server that does not answer. */
  cut(): void {
    this.#poll?.close();
    this.#poll = null;
    cutOff(this.fd);
  }

  close(): void {
    this.#poll?.close();
    this.#poll = null;
    closeSync(this.fd);
  }
}
