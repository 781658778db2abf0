/** A whole loopback machine in one directory: the hypervisor and xenstored, for guests and backends to join. */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Xenstore } from "../ports.js";
import { connectXenstore } from "../xenstore/client.js";
import { makeDirectory } from "./directory.js";
import { Hypervisor } from "./hypervisor.js";
import { runtimeParent } from "./layout.js";
import { XenstoreServer } from "./xenstored/server.js";

/** Where a domain's processes find xenstored. Domain 0's is the privileged one. */
export function xenstoreSocket(directory: string, domid: number): string {
  return join(directory, "xenstored", domid === 0 ? "socket" : `domain-${domid}`);
}

export class LoopbackHost {
  readonly directory: string;
  readonly hypervisor: Hypervisor;
  readonly xenstore: Xenstore;
  readonly #server: XenstoreServer;
  readonly #temporary: boolean;

  private constructor(
    directory: string,
    hypervisor: Hypervisor,
    server: XenstoreServer,
    xenstore: Xenstore,
    own: boolean,
  ) {
    this.directory = directory;
    this.hypervisor = hypervisor;
    this.#server = server;
    this.xenstore = xenstore;
    this.#temporary = own;
  }

  /** Starts in `directory`, or in a new one that `close` removes. Rejects with a HypervisorError if it is in use. */
  static async start(directory?: string): Promise<LoopbackHost> {
    const place = directory ?? mkdtempSync(join(runtimeParent(), "xbdback-"));
    const hypervisor = await Hypervisor.start(place);
    makeDirectory(join(place, "xenstored"));
    const socket = xenstoreSocket(place, 0);
    const server = await XenstoreServer.listen(socket);
    const xenstore = await connectXenstore(socket);
    await xenstore.mkdir("/local/domain/0");
    return new LoopbackHost(place, hypervisor, server, xenstore, directory === undefined);
  }

  /** Makes a guest with so much memory, and its place in xenstore. */
  async createGuest(domid: number, memoryBytes: number): Promise<void> {
    await this.hypervisor.createDomain(domid, memoryBytes);
    await this.#server.listenFor(domid, xenstoreSocket(this.directory, domid));
    const home = `/local/domain/${domid}`;
    await this.xenstore.transaction(async (t) => {
      await t.mkdir(home);
      await t.setPermissions(home, ["n0", `r${domid}`]);
      await t.mkdir(`${home}/device`);
      await t.setPermissions(`${home}/device`, [`n${domid}`]);
      await t.write(`${home}/domid`, String(domid));
    });
    this.#server.introduce(domid);
  }

  /** A guest's death, as Xen and xenstored tell of it (`@releaseDomain`); the toolstack has not tidied up yet. */
  async killGuest(domid: number): Promise<void> {
    await this.hypervisor.destroyDomain(domid);
    this.#server.release(domid);
  }

  /** A guest has stopped to be saved or migrated. xenstored tells that a domain is released, and not which nor why. */
  suspendGuest(domid: number): void {
    this.hypervisor.setSuspended(domid, true);
    this.#server.stopped(domid);
  }

  /** It goes on here; nobody is told. */
  resumeGuest(domid: number): void {
    this.hypervisor.setSuspended(domid, false);
  }

  /** {@link killGuest}, and the toolstack removes the guest's place in xenstore. */
  async destroyGuest(domid: number): Promise<void> {
    await this.killGuest(domid);
    await this.xenstore.remove(`/local/domain/${domid}`);
  }

  async close(): Promise<void> {
    this.xenstore.close();
    await this.#server.close();
    await this.hypervisor.close();
    if (this.#temporary) rmSync(this.directory, { recursive: true, force: true });
  }
}
