/** Node names: what xenstored takes for one (docs/misc/xenstore.txt), and how a name relates to its parent. */
import { ABSOLUTE_PATH_MAX, RELATIVE_PATH_MAX } from "../../xenstore/wire.js";

export const INTRODUCE_DOMAIN = "@introduceDomain";
export const RELEASE_DOMAIN = "@releaseDomain";

const VALID_CHARACTERS = /^[A-Za-z0-9\-/_@]+$/;
const DOMAIN_PREFIX = /^\/local\/domain\/[0-9]{1,5}\//;

export function domainPath(domid: number): string {
  return `/local/domain/${domid}`;
}

/** The absolute name of what `domid` calls `path` (relative ones lie below its own directory), or null if invalid. */
export function absolutePath(path: string, domid: number): string | null {
  if (path === "" || path.startsWith("@")) return null;
  const absolute = path.startsWith("/") ? path : `${domainPath(domid)}/${path}`;
  return isValid(absolute) ? absolute : null;
}

function isValid(path: string): boolean {
  if (path.length > ABSOLUTE_PATH_MAX || !VALID_CHARACTERS.test(path)) return false;
  if (path.includes("//") || (path.endsWith("/") && path !== "/")) return false;
  const prefix = DOMAIN_PREFIX.exec(path)?.[0].length ?? 0;
  return path.length - prefix <= RELATIVE_PATH_MAX;
}

/** The parent of an absolute path other than "/". */
export function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

export function childOf(path: string, name: string): string {
  return path === "/" ? `/${name}` : `${path}/${name}`;
}
