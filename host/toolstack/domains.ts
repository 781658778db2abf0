/** Domains by name, as the toolstack has them in xenstore. */
import type { Xenstore } from "../platform/ports.js";

const DOMID = /^[0-9]{1,5}$/;

/** The domid of a name or number; null when there is no such domain. */
export async function findDomain(xenstore: Xenstore, text: string): Promise<number | null> {
  if (DOMID.test(text)) {
    const there = (await xenstore.directory(`/local/domain/${Number(text)}`)) !== null;
    return there ? Number(text) : null;
  }
  for (const domid of (await xenstore.directory("/local/domain")) ?? []) {
    if (DOMID.test(domid) && (await xenstore.read(`/local/domain/${domid}/name`)) === text)
      return Number(domid);
  }
  return null;
}
