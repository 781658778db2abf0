/** What an unprivileged domain may use: the defaults of C xenstored 4.17, with its idea of a boundary. */
import { isPrivileged } from "./permissions.js";
import { type NodeContent, Refusal, type View } from "./store.js";

const NODES = 1000;
const NODE_BYTES = 2048;
const PERMISSIONS = 5;
const WATCHES = 128;
const TRANSACTIONS = 10;
const TRANSACTION_NODES = 1024;

/** Bytes that xenstored counts besides value and children: a record header and each permission. */
const RECORD_BYTES = 24;
const PERMISSION_BYTES = 8;

function refuseIf(domid: number, exceeded: boolean, code = "ENOSPC"): void {
  if (exceeded && !isPrivileged(domid)) throw new Refusal(code);
}

export function checkNodeSize(domid: number, { value, children, permissions }: NodeContent): void {
  if (isPrivileged(domid)) return;
  let bytes = RECORD_BYTES + PERMISSION_BYTES * permissions.length + value.length;
  for (const name of children) bytes += name.length + 1;
  refuseIf(domid, bytes >= NODE_BYTES);
}

export function checkNodes(domid: number, view: View, more: number): void {
  refuseIf(domid, view.owned(domid) + more > NODES);
}

export function checkPermissions(domid: number, count: number): void {
  refuseIf(domid, count > PERMISSIONS);
}

/** Before one more watch. xenstored compares with `>`: there may be one more than the quota says. */
export function checkWatches(domid: number, count: number): void {
  refuseIf(domid, count > WATCHES, "E2BIG");
}

/** Before one more transaction; `>` as for watches. */
export function checkTransactions(domid: number, count: number): void {
  refuseIf(domid, count > TRANSACTIONS);
}

/** Before one more node is looked at in a transaction. */
export function checkTransactionNodes(domid: number, count: number): void {
  refuseIf(domid, count >= TRANSACTION_NODES);
}
