/**
 * A xenstored for machines without Xen. It speaks the wire protocol and answers as C xenstored 4.17 does, so that
 * xenstore-ls and the like work on it. Guests connect over sockets of their own in place of ring pages.
 */
import type { Server, Socket } from "node:net";
import { Connection } from "./connection.js";
import { Domains } from "./domains.js";
import { listenPrivately } from "./listen.js";
import { DOMAIN_0_ONLY } from "./permissions.js";
import { type Service, serve } from "./requests.js";
import { Store } from "./store.js";
import { mkdir } from "./tree.js";
import { Watches } from "./watches.js";

export class XenstoreServer {
  #service: Service;
  #servers = new Map<Server, { readonly domid: number }>();
  #closed = false;

  private constructor() {
    const watches = new Watches();
    const store: Store = new Store((change) => watches.fire(change, store));
    const domains = new Domains(watches, (domid) => void this.#stopListening(domid));
    this.#service = { store, watches, domains };
    store.put("/", { value: Buffer.alloc(0), children: new Set(), permissions: DOMAIN_0_ONLY });
    mkdir(store, 0, "/tool/xenstored");
  }

  /**
   * Starts with an empty store. Connections to `socketPath` act as domain 0, which is privileged. The socket is of
   * mode 0600; a stale one is replaced. Rejects if another process listens there.
   */
  static async listen(socketPath: string): Promise<XenstoreServer> {
    const server = new XenstoreServer();
    await server.listenFor(0, socketPath);
    return server;
  }

  /**
   * Connections to `socketPath` act as `domid`, with its permissions and quotas, until {@link release}. The socket is
   * as in {@link listen}.
   */
  async listenFor(domid: number, socketPath: string): Promise<void> {
    const server = await listenPrivately(socketPath, (socket) => this.#connected(socket, domid));
    this.#servers.set(server, { domid });
    if (this.#closed) await this.#stopListening(domid);
  }

  /** Makes a domain known and fires `@introduceDomain`. No effect if it is known already. */
  introduce(domid: number): void {
    this.#service.domains.introduce(domid);
  }

  /**
   * Ends a domain that was introduced: its connections, watches, transactions and sockets go, then `@releaseDomain`
   * fires. Its nodes stay: the toolstack removes them.
   */
  release(domid: number): void {
    this.#service.domains.release(domid);
  }

  /** A domain that was introduced has shut down, for whatever reason, and stays known. */
  stopped(domid: number): void {
    this.#service.domains.stopped(domid);
  }

  /** Drops all connections and removes the sockets. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#service.domains.dropAll();
    await Promise.all([...this.#servers.values()].map(({ domid }) => this.#stopListening(domid)));
  }

  #connected(socket: Socket, domid: number): void {
    const { domains } = this.#service;
    const connection = new Connection(socket, domid, (from, message) => serve(this.#service, from, message));
    domains.connected(connection);
    socket.once("close", () => domains.disconnected(connection));
  }

  async #stopListening(domid: number): Promise<void> {
    const mine = [...this.#servers].filter(([, server]) => server.domid === domid).map(([server]) => server);
    for (const server of mine) this.#servers.delete(server);
    await Promise.all(mine.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}
