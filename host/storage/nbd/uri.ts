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
  /** Not there where the connection is not encrypted. */
  readonly tls?: NbdTls;
}

export interface NbdTls {
  /** Has ca-cert.pem, and client-cert.pem and client-key.pem where the server wants to know its client. */
  readonly certificates: string;
  /** The name that the server's certificate has. */
  readonly hostname: string;
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
  const exportName = decode(text, name);
  if (Buffer.byteLength(exportName) > 4096) throw new Error("the export's name is longer than 4096 bytes");
  if (/^nbds?\+unix$/.test(scheme)) {
    const socket = socketOf(text, authority, query);
    return { socket, host: "", port: 0, exportName, ...tlsOf(text, scheme, query, "localhost") };
  }
  if (!/^nbds?$/.test(scheme))
    throw new Error(`${text}: ${scheme} is not known; there are nbd, nbds, nbd+unix and nbds+unix`);
  const place = hostOf(text, authority);
  return { socket: null, ...place, exportName, ...tlsOf(text, scheme, query, place.host) };
}

/** As libnbd has them: `tls-certificates=` a directory, and `tls-hostname=` where the certificate has another name. */
function tlsOf(text: string, scheme: string, query: string, host: string): { tls?: NbdTls } {
  const certificates = parameterOf(text, query, "tls-certificates");
  if (!scheme.startsWith("nbds")) {
    if (certificates !== "") throw new Error(`${text}: tls-certificates is for nbds:// and nbds+unix://`);
    return {};
  }
  if (!certificates.startsWith("/") || certificates.includes("\0")) {
    throw new Error(
      `${text} names no certificates: add ?tls-certificates= with the absolute path of the directory that has ca-cert.pem`,
    );
  }
  return { tls: { certificates, hostname: parameterOf(text, query, "tls-hostname") || host } };
}

/** "" where it is not there. */
function parameterOf(text: string, query: string, name: string): string {
  const parameter = query.split("&").find((part) => part.startsWith(`${name}=`));
  return decode(text, parameter?.slice(name.length + 1) ?? "");
}

function socketOf(text: string, authority: string, query: string): string {
  if (authority !== "")
    throw new Error(`${text}: nbd+unix has no host; write nbd+unix:///EXPORT?socket=PATH`);
  const path = parameterOf(text, query, "socket");
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
