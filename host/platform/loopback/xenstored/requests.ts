/** Every request of the protocol: what it takes, what it does, what it answers. */
import { type Message, MessageType, PAYLOAD_MAX, RELATIVE_PATH_MAX } from "../../xenstore/wire.js";
import { type Connection, watchKey } from "./connection.js";
import type { Domains } from "./domains.js";
import { absolutePath, domainPath, INTRODUCE_DOMAIN, RELEASE_DOMAIN } from "./paths.js";
import {
  Access,
  formatPermissions,
  isPrivileged,
  type Permissions,
  parsePermissions,
} from "./permissions.js";
import { checkPermissions, checkTransactions, checkWatches } from "./quota.js";
import { Refusal, type Store, type View } from "./store.js";
import { Transaction } from "./transaction.js";
import { find, mkdir, remove, setPermissions, write } from "./tree.js";
import { tell, type Watches } from "./watches.js";

/** What requests work on. */
export interface Service {
  readonly store: Store;
  readonly watches: Watches;
  readonly domains: Domains;
}

interface Request {
  readonly service: Service;
  readonly connection: Connection;
  readonly domid: number;
  readonly message: Message;
  /** The store, or the transaction that the message names. */
  readonly view: View;
}

interface RequestType {
  /** The answer's payload; null when the answer has been given. */
  run(request: Request): Buffer | string | null;
  /** For domain 0 only. */
  readonly privileged?: boolean;
  /** The message's transaction is not looked at. */
  readonly outsideTransactions?: boolean;
}

const OK = "OK\0";
/** DOMID_FIRST_RESERVED of xen/include/public/xen.h. */
const FIRST_RESERVED_DOMID = 0x7ff0;

const REQUESTS = new Map<number, RequestType>([
  [MessageType.directory, { run: directory }],
  [MessageType.directoryPart, { run: directoryPart }],
  [MessageType.read, { run: read }],
  [MessageType.write, { run: writeValue }],
  [MessageType.mkdir, { run: makeDirectory }],
  [MessageType.remove, { run: removeNode }],
  [MessageType.getPermissions, { run: getPermissions }],
  [MessageType.setPermissions, { run: changePermissions }],
  [MessageType.transactionStart, { run: transactionStart }],
  [MessageType.transactionEnd, { run: transactionEnd }],
  [MessageType.watch, { run: watch, outsideTransactions: true }],
  [MessageType.unwatch, { run: unwatch, outsideTransactions: true }],
  [MessageType.resetWatches, { run: resetWatches }],
  [MessageType.getDomainPath, { run: getDomainPath }],
  [MessageType.isDomainIntroduced, { run: isDomainIntroduced, privileged: true }],
  [MessageType.introduce, { run: introduce, privileged: true }],
  [MessageType.release, { run: release, privileged: true }],
  [MessageType.resume, { run: resume, privileged: true }],
  [MessageType.control, { run: control, privileged: true }],
]);

/** Answers one message. Throws a {@link Refusal}. */
export function serve(service: Service, connection: Connection, message: Message): void {
  const type = REQUESTS.get(message.type);
  if (!type) throw new Refusal("ENOSYS");
  const { domid } = connection;
  if (type.privileged && !isPrivileged(domid)) throw new Refusal("EACCES");
  const inTransaction = message.transactionId !== 0 && !type.outsideTransactions;
  const view = inTransaction ? connection.transactions.get(message.transactionId) : service.store;
  if (!view) throw new Refusal("ENOENT");
  const answer = type.run({ service, connection, domid, message, view });
  if (typeof answer === "string") connection.answer(message, Buffer.from(answer, "latin1"));
  else if (answer) connection.answer(message, answer);
}

/** Exactly `count` NUL-terminated strings and nothing behind them. */
function strings({ message: { payload } }: Request, count: number): string[] {
  const found = payload.toString("latin1").split("\0");
  if (found.pop() !== "" || found.length !== count) throw new Refusal("EINVAL");
  return found;
}

/** As atoi(3), which is what xenstored reads domain ids with. */
function number(text: string): number {
  const value = Number.parseInt(text, 10);
  return Number.isNaN(value) ? 0 : value;
}

function absolute(path: string, domid: number): string {
  const name = absolutePath(path, domid);
  if (name === null) throw new Refusal("EINVAL");
  return name;
}

function onePath(request: Request): string {
  return absolute(strings(request, 1)[0], request.domid);
}

function readable(request: Request, path: string) {
  return find(request.view, request.domid, path, Access.read);
}

function names(children: ReadonlySet<string>): Buffer {
  return Buffer.from([...children].map((name) => `${name}\0`).join(""), "latin1");
}

function directory(request: Request): Buffer {
  return names(readable(request, onePath(request)).children);
}

/** As much of the names as fits, from a byte offset into their list; an empty name marks the end. */
function directoryPart(request: Request): Buffer {
  const [path, offset] = strings(request, 2);
  const { generation, children } = readable(request, absolute(path, request.domid));
  const head = Buffer.from(`${generation}\0`, "latin1");
  const list = names(children);
  const from = Math.min(Math.max(0, number(offset)), list.length);
  const room = PAYLOAD_MAX - head.length - 1;
  if (list.length - from <= room) return Buffer.concat([head, list.subarray(from), Buffer.of(0)]);
  return Buffer.concat([head, list.subarray(from, list.lastIndexOf(0, from + room - 1) + 1)]);
}

function read(request: Request): Buffer {
  return readable(request, onePath(request)).value;
}

function writeValue({ message: { payload }, domid, view }: Request): string {
  const end = payload.indexOf(0);
  if (end < 0) throw new Refusal("EINVAL");
  const path = absolute(payload.toString("latin1", 0, end), domid);
  // A copy: the payload is a part of a chunk that goes away.
  write(view, domid, path, Buffer.from(payload.subarray(end + 1)));
  return OK;
}

function makeDirectory(request: Request): string {
  mkdir(request.view, request.domid, onePath(request));
  return OK;
}

function removeNode(request: Request): string {
  remove(request.view, request.domid, onePath(request));
  return OK;
}

function getPermissions(request: Request): string {
  return formatPermissions(readable(request, onePath(request)).permissions);
}

function changePermissions(request: Request): string {
  const { message, domid, service, view } = request;
  const [path, ...entries] = message.payload.toString("latin1").split("\0");
  entries.pop();
  if (entries.length === 0) throw new Refusal("EINVAL");
  checkPermissions(domid, entries.length);
  const permissions = parsePermissions(entries);
  if (!permissions) throw new Refusal("EINVAL");
  if (path.startsWith("@")) changeSpecial(service, domid, path, permissions);
  else setPermissions(view, domid, absolute(path, domid), permissions);
  return OK;
}

function changeSpecial({ watches }: Service, domid: number, path: string, permissions: Permissions): void {
  if (path !== INTRODUCE_DOMAIN && path !== RELEASE_DOMAIN) throw new Refusal("EINVAL");
  if (!isPrivileged(domid)) throw new Refusal("EACCES");
  watches.allowSpecial(path, permissions);
}

function transactionStart({ connection, domid, message, service }: Request): string {
  if (message.transactionId !== 0) throw new Refusal("EBUSY");
  checkTransactions(
    domid,
    service.domains.count(domid, (one) => one.transactions.size),
  );
  const id = connection.nextTransactionId();
  connection.transactions.set(id, new Transaction(service.store, domid));
  return `${id}\0`;
}

function transactionEnd(request: Request): string {
  const { connection, message } = request;
  const [how] = strings(request, 1);
  if (how !== "T" && how !== "F") throw new Refusal("EINVAL");
  const transaction = connection.transactions.get(message.transactionId);
  if (!transaction) throw new Refusal("ENOENT");
  connection.transactions.delete(message.transactionId);
  if (how === "T") transaction.commit();
  return OK;
}

/** What `domid` watches by that name: a node or a special path. Null if it is neither. */
function watchedPath(path: string, domid: number): string | null {
  if (path.startsWith("@")) return path.length <= RELATIVE_PATH_MAX ? path : null;
  return absolutePath(path, domid);
}

/** The answer comes first, then one event right away, whether or not the node is there or may be read. */
function watch(request: Request): null {
  const { connection, domid, message, service } = request;
  const [name, token] = strings(request, 2);
  const path = watchedPath(name, domid);
  if (path === null) throw new Refusal("EINVAL");
  const key = watchKey(path, token);
  if (connection.watches.has(key)) throw new Refusal("EEXIST");
  checkWatches(
    domid,
    service.domains.count(domid, (one) => one.watches.size),
  );
  const added = { watcher: connection, path, token, hidden: path.length - name.length };
  connection.watches.set(key, added);
  service.watches.add(added);
  connection.answer(message, Buffer.from(OK));
  tell(added, added.path);
  return null;
}

function unwatch(request: Request): string {
  const { connection, domid, service } = request;
  const [name, token] = strings(request, 2);
  const key = watchKey(watchedPath(name, domid) ?? "", token);
  const found = connection.watches.get(key);
  if (!found) throw new Refusal("ENOENT");
  connection.watches.delete(key);
  service.watches.remove(found);
  return OK;
}

function resetWatches({ connection, service }: Request): string {
  service.domains.reset(connection);
  return OK;
}

function getDomainPath(request: Request): string {
  return `${domainPath(number(strings(request, 1)[0]))}\0`;
}

function isDomainIntroduced(request: Request): string {
  return request.service.domains.isIntroduced(number(strings(request, 1)[0])) ? "T\0" : "F\0";
}

/** The page and the port that it names are not used: here, guests connect over sockets. */
function introduce(request: Request): string {
  const domid = number(strings(request, 3)[0]);
  if (domid < 0 || domid >= FIRST_RESERVED_DOMID) throw new Refusal("EINVAL");
  request.service.domains.introduce(domid);
  return OK;
}

function release(request: Request): string {
  const domid = number(strings(request, 1)[0]);
  if (domid === 0) throw new Refusal("EINVAL");
  if (!request.service.domains.release(domid)) throw new Refusal("ENOENT");
  return OK;
}

function resume(request: Request): string {
  const domid = number(strings(request, 1)[0]);
  if (domid === 0) throw new Refusal("EINVAL");
  if (!request.service.domains.isIntroduced(domid)) throw new Refusal("ENOENT");
  return OK;
}

/** Of xenstored's commands for operators, only the check for consistency, which a tree in memory always passes. */
function control({ message: { payload } }: Request): string {
  if (payload.toString("latin1") !== "check\0") throw new Refusal("EINVAL");
  return OK;
}
