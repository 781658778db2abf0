/** The nodes, and what a request needs of them whether it runs in a transaction or not. */
import { accessOf, type Permissions } from "./permissions.js";

/** A request that is refused; `code` is the error's word on the wire. */
export class Refusal extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

export interface NodeContent {
  readonly value: Buffer;
  /** Names, in the order of creation. */
  readonly children: ReadonlySet<string>;
  readonly permissions: Permissions;
}

/** Nodes are never changed in place, so that transactions can hold on to what they saw. */
export interface Node extends NodeContent {
  /** Grows with every change; no two states of the store's nodes share one. */
  readonly generation: number;
}

/** What watches are told about. */
export interface Change {
  readonly path: string;
  /** Only watches on this very node fire, not those above it. */
  readonly exact: boolean;
  /** The node as it is or, after its removal, was; null to look it up. */
  readonly node: Node | null;
  /** Permissions from before, where they count as well. */
  readonly before: Permissions | null;
}

/** The store as one request sees it: directly, or through a transaction. */
export interface View {
  get(path: string): Node | null;
  put(path: string, content: NodeContent): Node;
  delete(path: string): void;
  /** How many nodes `domid` owns. */
  owned(domid: number): number;
  changed(change: Change): void;
}

export class Store implements View {
  #nodes = new Map<string, Node>();
  #owned = new Map<number, number>();
  #generation = 0;
  #onChange: (change: Change) => void;

  /** @param onChange told of every change outside of transactions and of every committed one. */
  constructor(onChange: (change: Change) => void) {
    this.#onChange = onChange;
  }

  get(path: string): Node | null {
    return this.#nodes.get(path) ?? null;
  }

  put(path: string, content: NodeContent): Node {
    const before = this.#nodes.get(path);
    if (before) this.#count(before, -1);
    const node = { ...content, generation: this.nextGeneration() };
    this.#nodes.set(path, node);
    this.#count(node, 1);
    return node;
  }

  delete(path: string): void {
    const node = this.#nodes.get(path);
    if (!node) return;
    this.#count(node, -1);
    this.#nodes.delete(path);
  }

  owned(domid: number): number {
    return this.#owned.get(domid) ?? 0;
  }

  changed(change: Change): void {
    this.#onChange(change);
  }

  nextGeneration(): number {
    return ++this.#generation;
  }

  #count(node: Node, by: number): void {
    const owner = node.permissions[0].domid;
    const count = this.owned(owner) + by;
    if (count === 0) this.#owned.delete(owner);
    else this.#owned.set(owner, count);
  }
}

/** Whether a node's permissions give `domid` all of `access`. */
export function allows(node: Pick<NodeContent, "permissions">, domid: number, access: number): boolean {
  return (accessOf(domid, node.permissions) & access) === access;
}
