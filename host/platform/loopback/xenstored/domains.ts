/** Which domains there are, and who is connected as which. */
import type { Connection } from "./connection.js";
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from "./paths.js";
import type { Watches } from "./watches.js";

export class Domains {
  #watches: Watches;
  #introduced = new Set<number>([0]);
  #connections = new Map<number, Set<Connection>>();
  #onRelease: (domid: number) => void;

  constructor(watches: Watches, onRelease: (domid: number) => void) {
    this.#watches = watches;
    this.#onRelease = onRelease;
  }

  isIntroduced(domid: number): boolean {
    return this.#introduced.has(domid);
  }

  introduce(domid: number): void {
    if (this.#introduced.has(domid)) return;
    this.#introduced.add(domid);
    this.#watches.fireSpecial(INTRODUCE_DOMAIN);
  }

  /** False if there is no such domain. Its connections are gone before anybody hears of it. */
  release(domid: number): boolean {
    if (domid === 0 || !this.#introduced.delete(domid)) return false;
    for (const connection of [...(this.#connections.get(domid) ?? [])]) {
      this.disconnected(connection);
      connection.drop();
    }
    this.#onRelease(domid);
    this.#watches.fireSpecial(RELEASE_DOMAIN);
    return true;
  }

  /** A domain has shut down without dying. */
  stopped(domid: number): void {
    if (this.#introduced.has(domid)) this.#watches.fireSpecial(RELEASE_DOMAIN);
  }

  connected(connection: Connection): void {
    const there = this.#connections.get(connection.domid);
    if (there) there.add(connection);
    else this.#connections.set(connection.domid, new Set([connection]));
  }

  disconnected(connection: Connection): void {
    this.reset(connection);
    const there = this.#connections.get(connection.domid);
    there?.delete(connection);
    if (there?.size === 0) this.#connections.delete(connection.domid);
  }

  /** Ends a connection's transactions and removes its watches. */
  reset(connection: Connection): void {
    connection.transactions.clear();
    for (const watch of connection.watches.values()) this.#watches.remove(watch);
    connection.watches.clear();
  }

  /** The sum over a domain's connections: quotas are the domain's. */
  count(domid: number, of: (connection: Connection) => number): number {
    let sum = 0;
    for (const connection of this.#connections.get(domid) ?? []) sum += of(connection);
    return sum;
  }

  dropAll(): void {
    for (const connections of this.#connections.values()) {
      for (const connection of connections) connection.drop();
    }
  }
}
