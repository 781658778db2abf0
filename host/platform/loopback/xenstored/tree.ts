/** What requests do to the tree of nodes, with C xenstored's checks in C xenstored's order. */
import { childOf, nameOf, parentOf } from "./paths.js";
import { Access, accessOf, isPrivileged, type Permissions } from "./permissions.js";
import { checkNodeSize, checkNodes } from "./quota.js";
import { allows, type Node, type NodeContent, Refusal, type View } from "./store.js";

const EMPTY_VALUE = Buffer.alloc(0);
const NO_CHILDREN: ReadonlySet<string> = new Set();

/** The node, if `domid` has `access` to it. Whether a node is there is told only to who may look at its parents. */
export function find(view: View, domid: number, path: string, access: number): Node {
  const node = view.get(path);
  if (node && allows(node, domid, access)) return node;
  // Asked in any case: what a transaction looks at decides about its conflicts. Any part of `access` will do here.
  const mayAsk = accessOf(domid, nearestAncestor(view, path).permissions) & access;
  throw new Refusal(!node && mayAsk ? "ENOENT" : "EACCES");
}

function findOrNull(view: View, domid: number, path: string, access: number): Node | null {
  try {
    return find(view, domid, path, access);
  } catch (error) {
    if (error instanceof Refusal && error.code === "ENOENT") return null;
    throw error;
  }
}

function nearestAncestor(view: View, path: string): Node {
  for (let at = path; at !== "/"; ) {
    at = parentOf(at);
    const node = view.get(at);
    if (node) return node;
  }
  // Only the root's own absence could lead here, and nothing removes the root.
  throw new Refusal("EACCES");
}

/** Sets a value; creates the node, and parents that are missing. */
export function write(view: View, domid: number, path: string, value: Buffer): void {
  const node = findOrNull(view, domid, path, Access.write);
  if (!node) {
    create(view, domid, path, value);
    return;
  }
  const content = { ...node, value };
  checkNodeSize(domid, content);
  announce(view, path, view.put(path, content));
}

export function mkdir(view: View, domid: number, path: string): void {
  if (!findOrNull(view, domid, path, Access.write)) create(view, domid, path, EMPTY_VALUE);
}

function create(view: View, domid: number, path: string, value: Buffer): void {
  const missing = [path];
  let at = parentOf(path);
  let parent = view.get(at);
  for (; !parent; parent = view.get(at)) {
    missing.push(at);
    at = parentOf(at);
  }
  const permissions = inherited(parent.permissions, domid);
  const changes: [string, NodeContent][] = [
    [at, { ...parent, children: new Set(parent.children).add(nameOf(missing[missing.length - 1])) }],
  ];
  for (let i = missing.length - 1; i > 0; i--) {
    const children = new Set([nameOf(missing[i - 1])]);
    changes.push([missing[i], { value: EMPTY_VALUE, children, permissions }]);
  }
  changes.push([path, { value, children: NO_CHILDREN, permissions }]);

  for (const [, content] of changes) checkNodeSize(domid, content);
  checkNodes(domid, view, missing.length);
  for (const [name, content] of changes) view.put(name, content);
  announce(view, path, null);
}

/** A new node has its parent's permissions, but an unprivileged domain owns what it creates. */
function inherited(permissions: Permissions, domid: number): Permissions {
  if (isPrivileged(domid)) return permissions;
  return [{ domid, access: permissions[0].access }, ...permissions.slice(1)];
}

/** Removes a node and all below it. Fine if it is not there, as long as its parent is. */
export function remove(view: View, domid: number, path: string): void {
  const found = findOrNull(view, domid, path, Access.write);
  if (path === "/") throw new Refusal("EINVAL");
  const parentPath = parentOf(path);
  if (!found) {
    if (!view.get(parentPath)) throw new Refusal("ENOENT");
    return;
  }
  const parent = view.get(parentPath);
  // A transaction may see a node without its parent: others have gone on meanwhile. It cannot be committed.
  if (!parent) throw new Refusal("EINVAL");
  removeTree(view, path, path);
  const children = new Set(parent.children);
  // Likewise.
  if (!children.delete(nameOf(path))) throw new Refusal("EIO");
  view.put(parentPath, { ...parent, children });
}

/** Children before parents. Watches above hear of the topmost node only; those on the nodes below, of theirs. */
function removeTree(view: View, path: string, top: string): void {
  const node = view.get(path);
  if (!node) return;
  for (const name of node.children) removeTree(view, childOf(path, name), top);
  view.delete(path);
  view.changed({ path, exact: path !== top, node, before: null });
}

export function setPermissions(view: View, domid: number, path: string, permissions: Permissions): void {
  const node = find(view, domid, path, Access.write | Access.own);
  const before = node.permissions;
  if (!isPrivileged(domid) && permissions[0].domid !== before[0].domid) throw new Refusal("EPERM");
  const content = { ...node, permissions };
  checkNodeSize(domid, content);
  announce(view, path, view.put(path, content), before);
}

function announce(view: View, path: string, node: Node | null, before: Permissions | null = null): void {
  view.changed({ path, exact: false, node, before });
}
