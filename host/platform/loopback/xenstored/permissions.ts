/**
 * Who may do what to a node (docs/misc/xenstore.txt). The first entry names the owner, who may do all, and what
 * everybody may who is not named; the others name what one domain may.
 */

export const Access = { read: 1, write: 2, own: 4 } as const;

export interface Permission {
  readonly domid: number;
  /** {@link Access.read} and {@link Access.write}. */
  readonly access: number;
}

export type Permissions = readonly Permission[];

export const DOMAIN_0_ONLY: Permissions = [{ domid: 0, access: 0 }];

const LETTERS = ["n", "r", "w", "b"];
const ENTRY = /^([nrwb])([0-9]{1,10})$/;

/** Domain 0 is privileged: no permission keeps it out, and no quota limits it. */
export function isPrivileged(domid: number): boolean {
  return domid === 0;
}

/** Parses entries like "n0", "r1"; null if one is malformed. */
export function parsePermissions(entries: readonly string[]): Permissions | null {
  const permissions: Permission[] = [];
  for (const entry of entries) {
    const match = ENTRY.exec(entry);
    if (!match) return null;
    permissions.push({ domid: Number(match[2]) >>> 0, access: LETTERS.indexOf(match[1]) });
  }
  return permissions.length > 0 ? permissions : null;
}

export function formatPermissions(permissions: Permissions): string {
  return permissions.map(({ domid, access }) => `${LETTERS[access]}${domid}\0`).join("");
}

/** What `domid` may, as a set of {@link Access}. */
export function accessOf(domid: number, permissions: Permissions): number {
  if (isPrivileged(domid) || permissions[0].domid === domid) return Access.read | Access.write | Access.own;
  const own = permissions.find((entry, i) => i > 0 && entry.domid === domid);
  return (own ?? permissions[0]).access;
}
