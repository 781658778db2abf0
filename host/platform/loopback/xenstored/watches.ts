/** Who wants to hear of which nodes, and who may (XSA-115). */
import { parentOf } from "./paths.js";
import { Access, accessOf, DOMAIN_0_ONLY, isPrivileged, type Permissions } from "./permissions.js";
import type { Change, Store } from "./store.js";

/** A connection, as far as watches know it. */
export interface Watcher {
  readonly domid: number;
  sendEvent(path: string, token: string): void;
}

export interface Watch {
  readonly watcher: Watcher;
  /** Absolute, or a special one ("@releaseDomain"). */
  readonly path: string;
  readonly token: string;
  /** Characters at the front of a path that are not told: the watcher's own directory, if its path was relative. */
  readonly hidden: number;
}

/** A watch's place in the order of registration, in which one connection's watches fire. */
type Place = number;

export class Watches {
  #byPath = new Map<string, Map<Watch, Place>>();
  #next = 0;
  #specialPermissions = new Map<string, Permissions>();

  add(watch: Watch): void {
    let there = this.#byPath.get(watch.path);
    if (!there) this.#byPath.set(watch.path, (there = new Map()));
    there.set(watch, this.#next++);
  }

  remove(watch: Watch): void {
    const there = this.#byPath.get(watch.path);
    there?.delete(watch);
    if (there?.size === 0) this.#byPath.delete(watch.path);
  }

  fire(change: Change, store: Store): void {
    for (const watch of this.#on(change.path, change.exact)) {
      if (mayHear(watch.watcher.domid, change, store)) tell(watch, change.path);
    }
  }

  /** Who, besides domain 0, hears of a special path. */
  allowSpecial(path: string, permissions: Permissions): void {
    this.#specialPermissions.set(path, permissions);
  }

  fireSpecial(path: string): void {
    const permissions = this.#specialPermissions.get(path) ?? DOMAIN_0_ONLY;
    for (const watch of this.#on(path, true)) {
      if (canRead(permissions, watch.watcher.domid)) tell(watch, path);
    }
  }

  #on(path: string, exact: boolean): Watch[] {
    const found = [...(this.#byPath.get(path) ?? [])];
    for (let at = path; !exact && at !== "/"; ) {
      at = parentOf(at);
      found.push(...(this.#byPath.get(at) ?? []));
    }
    return found.sort(([, a], [, b]) => a - b).map(([watch]) => watch);
  }
}

export function tell({ watcher, token, hidden }: Watch, path: string): void {
  watcher.sendEvent(path.slice(hidden), token);
}

function canRead(permissions: Permissions, domid: number): boolean {
  return (accessOf(domid, permissions) & Access.read) !== 0;
}

/** The node has to be readable, now or before, or its parent. */
function mayHear(domid: number, { path, node: known, before }: Change, store: Store): boolean {
  if (isPrivileged(domid)) return true;
  if (before && canRead(before, domid)) return true;
  const node = known ?? store.get(path);
  if (!node) return false;
  if (canRead(node.permissions, domid)) return true;
  const parent = path === "/" ? null : store.get(parentOf(path));
  return parent !== null && canRead(parent.permissions, domid);
}
