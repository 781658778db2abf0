/** Domains by name, as the toolstack has them in xenstore. */
import type { Xenstore } from "../platform/ports.js";
import { quote } from "../vbd/diagnostics.js";

const DOMID = /^[0-9]{1,5}$/;

class AmbiguousNameError extends Error {
  readonly code = "ENOTUNIQ";
  constructor(name: string, domids: readonly number[]) {
    super(`domains ${domids.join(" and ")} are both called ${quote(name)}: say which by its number`);
  }
}

/** The domid of a name or number; null when there is no such domain. Rejects where two domains have the name. */
export async function findDomain(xenstore: Xenstore, text: string): Promise<number | null> {
  if (DOMID.test(text)) {
    const there = (await xenstore.directory(`/local/domain/${Number(text)}`)) !== null;
    return there ? Number(text) : null;
  }
  const named: number[] = [];
  for (const domid of (await xenstore.directory("/local/domain")) ?? []) {
    const name = DOMID.test(domid) ? await xenstore.read(`/local/domain/${domid}/name`) : null;
    if (name === text) named.push(Number(domid));
  }
  // One that migrates to this host, or is being destroyed, beside its successor.
  if (named.length > 1) throw new AmbiguousNameError(text, named);
  return named[0] ?? null;
}
