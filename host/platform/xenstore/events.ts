/**
 * Watch events on their way to callbacks. They wait merged by path, so that no storm of them fills memory (XSA-349).
 */

/** Paths that wait at once, over all watches. */
export const WAITING_PATHS_MAX = 4096;

export interface Receiver {
  /** What is watched. */
  readonly path: string;
  readonly changed: (path: string) => void;
}

export class EventQueue {
  #waiting = new Map<Receiver, Set<string>>();
  #count = 0;
  #scheduled = false;

  /**
   * When too many paths wait, the receiver's become one event for what it watches: anything below may have changed.
   */
  add(receiver: Receiver, path: string): void {
    let paths = this.#waiting.get(receiver);
    if (!paths) this.#waiting.set(receiver, (paths = new Set()));
    if (paths.has(path)) return;
    if (this.#count >= WAITING_PATHS_MAX) {
      this.#count -= paths.size;
      paths.clear();
      path = receiver.path;
    }
    paths.add(path);
    this.#count++;
    this.#schedule();
  }

  drop(receiver: Receiver): void {
    this.#count -= this.#waiting.get(receiver)?.size ?? 0;
    this.#waiting.delete(receiver);
  }

  clear(): void {
    this.#waiting.clear();
    this.#count = 0;
  }

  /** A turn of the event loop later: after promises that the same bytes have settled, such as that of the watch. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      for (const receiver of [...this.#waiting.keys()]) {
        for (const path of [...(this.#waiting.get(receiver) ?? [])]) this.#deliver(receiver, path);
      }
    });
  }

  #deliver(receiver: Receiver, path: string): void {
    const paths = this.#waiting.get(receiver);
    // An earlier callback may have removed the watch.
    if (!paths?.delete(path)) return;
    this.#count--;
    if (paths.size === 0) this.#waiting.delete(receiver);
    try {
      receiver.changed(path);
    } catch (error) {
      process.emitWarning(`watch on ${receiver.path}: ${(error as Error)?.stack ?? error}`);
    }
  }
}
