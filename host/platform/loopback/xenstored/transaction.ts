/** A transaction: a view of its own on the store, which becomes the store's if nothing that it saw has changed. */
import type { Permissions } from "./permissions.js";
import { checkNodes, checkTransactionNodes } from "./quota.js";
import { type Change, type Node, type NodeContent, Refusal, type Store, type View } from "./store.js";

/** One node that the transaction looked at. */
interface AccessedNode {
  /** As first seen; null: there was none. */
  readonly seen: Node | null;
  /** As it is in the transaction. */
  node: Node | null;
  modified: boolean;
  fires: boolean;
  exact: boolean;
}

export class Transaction implements View {
  #store: Store;
  #domid: number;
  #accessed = new Map<string, AccessedNode>();
  /** By how much each domain's number of nodes differs from the store's. */
  #ownedMore = new Map<number, number>();

  constructor(store: Store, domid: number) {
    this.#store = store;
    this.#domid = domid;
  }

  get(path: string): Node | null {
    return this.#access(path).node;
  }

  put(path: string, content: NodeContent): Node {
    const access = this.#access(path);
    if (access.node) this.#count(access.node.permissions, -1);
    access.node = { ...content, generation: this.#store.nextGeneration() };
    access.modified = true;
    this.#count(content.permissions, 1);
    return access.node;
  }

  delete(path: string): void {
    const access = this.#access(path);
    if (access.node) this.#count(access.node.permissions, -1);
    access.node = null;
    access.modified = true;
  }

  owned(domid: number): number {
    return this.#store.owned(domid) + (this.#ownedMore.get(domid) ?? 0);
  }

  /** Events wait for the commit: one a node, in the order in which the nodes were first looked at. */
  changed({ path, exact }: Change): void {
    const access = this.#access(path);
    access.fires = true;
    access.exact = exact;
  }

  /** Throws a {@link Refusal}, and changes nothing, with EAGAIN on conflict or ENOSPC when the quota is used up. */
  commit(): void {
    for (const [path, { seen }] of this.#accessed) {
      if (this.#store.get(path)?.generation !== seen?.generation) throw new Refusal("EAGAIN");
    }
    if ((this.#ownedMore.get(this.#domid) ?? 0) > 0) checkNodes(this.#domid, this, 0);
    for (const [path, { seen, node, modified, fires, exact }] of this.#accessed) {
      if (!modified) continue;
      if (node) this.#store.put(path, node);
      else this.#store.delete(path);
      if (fires) this.#store.changed({ path, exact, node: null, before: seen?.permissions ?? null });
    }
  }

  #access(path: string): AccessedNode {
    let access = this.#accessed.get(path);
    if (!access) {
      checkTransactionNodes(this.#domid, this.#accessed.size);
      const seen = this.#store.get(path);
      access = { seen, node: seen, modified: false, fires: false, exact: false };
      this.#accessed.set(path, access);
    }
    return access;
  }

  #count(permissions: Permissions, by: number): void {
    const owner = permissions[0].domid;
    this.#ownedMore.set(owner, (this.#ownedMore.get(owner) ?? 0) + by);
  }
}
