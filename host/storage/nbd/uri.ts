/** NBD URIs (NetworkBlockDevice/nbd doc/uri.md): where a server listens, and which of its exports is meant. */

/** The port that IANA gave to NBD. */
const DEFAULT_PORT = 10809;

export interface NbdAddress {
  /** Absolute path of a Unix socket, or null for TCP. */
  readonly socket: string | null;
  readonly host: string;
  readonly port: number;
  /** "" is the default export. */
  readonly exportName: string;
}

/** Whether something is meant as an NBD URI, right or wrong. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(\+[a-z]+)?:/.test(text);
}

/** Throws an Error that says what is wrong with a URI, and what would be right. */
export function parseNbdUri(text: string): NbdAddress {
  const match = /^(nbds?(?:\+[a-z]+)?):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(text);
  if (!match)
    throw new Error(`${text} is not an NBD URI: write nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH`);
  const [, scheme, authority, name = "", query = ""] = match;
  if (scheme.startsWith("nbds")) {
    throw new Error(`${text}: TLS is not supported; use nbd:// on a network that you trust, or a tunnel`);
  }
  const exportName = decode(text, name);
  if (Buffer.byteLength(exportName) > 4096) throw new Error("the export's name is longer than 4096 bytes");
  if (scheme === "nbd+unix")
    return { socket: socketOf(text, authority, query), host: "", port: 0, exportName };
  if (scheme !== "nbd") throw new Error(`${text}: ${scheme} is not known; there are nbd and nbd+unix`);
  return { socket: null, ...hostOf(text, authority), exportName };
}

function socketOf(text: string, authority: string, query: string): string {
  if (authority !== "")
    throw new Error(`${text}: nbd+unix has no host; write nbd+unix:///EXPORT?socket=PATH`);
  const parameter = query.split("&").find((part) => part.startsWith("socket="));
  const path = decode(text, parameter?.slice("socket=".length) ?? "");
  if (!path.startsWith("/") || path.includes("\0")) {
    throw new Error(`${text} names no socket: add ?socket= with an absolute path`);
  }
  return path;
}

function hostOf(text: string, authority: string): { host: string; port: number } {
  const match = /^(?:[^@]*@)?(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*))(?::([0-9]*))?$/.exec(authority);
  const port = Number(match?.[3] || DEFAULT_PORT);
  if (!match || port < 1 || port > 65535) throw new Error(`${text}: "${authority}" is not HOST or HOST:PORT`);
  return { host: match[1] ?? (decode(text, match[2]) || "localhost"), port };
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Error(`${text}: "${part}" is badly encoded: % must be followed by two hexadecimal digits`);
  }
}
