/** Whose a vbd is, and who may write what we believe of it (XSA-175, XSA-178). */
import type { Xenstore } from "../platform/ports.js";
import type { BackendKeys } from "./backend-keys.js";
import { quote } from "./diagnostics.js";

/** What a directory says must agree with where it is: if not, a mistake of the toolstack, or an attack. */
export function strangerIn(
  { frontendId, frontend }: BackendKeys,
  domid: number,
  expected: string,
  directory: string,
): Error | null {
  if (frontendId === String(domid) && frontend === expected) return null;
  const claim = `frontend-id ${quote(frontendId ?? "")} and frontend ${quote(frontend ?? "")}`;
  return new Error(`${claim} do not belong to ${directory}`);
}

/** The keys that decide which store is opened, and how. */
const DECISIVE = ["params", "physical-device-path", "physical-device", "mode"];

/**
 * Rejects with an Error if a domain other than ours and domain 0, the toolstack's, may write the backend directory or
 * a key of it that decides. libxl makes it ours, and the guest may read it.
 */
export async function checkWriters(xenstore: Xenstore, directory: string, ours: number): Promise<void> {
  const paths = [directory, ...DECISIVE.map((key) => `${directory}/${key}`)];
  const all = await Promise.all(paths.map((path) => xenstore.permissions(path)));
  for (const [i, permissions] of all.entries()) {
    const writer = permissions && foreignWriter(permissions, ours);
    if (writer)
      throw new Error(
        `${paths[i]} may be written by ${writer}: the toolstack must give it to the backend's domain`,
      );
  }
}

/** Entries like "n0", "r1": the owner and what everybody else may, then what single domains may. */
function foreignWriter(permissions: readonly string[], ours: number): string | null {
  for (const [i, entry] of permissions.entries()) {
    const domid = Number(entry.slice(1));
    const writes = entry[0] === "w" || entry[0] === "b";
    if (i === 0 && writes) return "every domain";
    // The owner may do all.
    if ((i === 0 || writes) && domid !== 0 && domid !== ours) return `domain ${domid}`;
  }
  return null;
}
