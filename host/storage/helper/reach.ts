/** What a helper may reach: its files, and what every program needs to run. */
import { Access, type Rule } from "../../platform/landlock.js";

export interface Reach {
  /** What it serves. Capabilities to open them are kept only if one cannot be opened without. */
  readonly files: readonly { readonly path: string; readonly writable: boolean }[];
  /** Files and directories that it reads besides, with capabilities in the same way. */
  readonly configuration: readonly string[];
  /** Where it makes its socket; null where it makes none. */
  readonly directory: string | null;
  /** It talks to other machines. */
  readonly remote: boolean;
}

/** Programs and libraries, wherever a system has them. */
const PROGRAMS = [
  "/usr",
  "/bin",
  "/sbin",
  "/lib",
  "/lib32",
  "/lib64",
  "/libx32",
  "/opt",
  "/nix/store",
  "/gnu/store",
];
/** What libraries look at when they are loaded. None of it is secret. */
const SYSTEM = [
  ...[
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
  ],
  ...["/etc/crypto-policies", "/etc/gnutls", "/etc/libnl", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"],
  ...["/proc/self", "/proc/filesystems", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm"],
  // The queue of a block device is described there.
  ...["/sys/dev/block", "/sys/devices"],
  ...["/dev/random", "/dev/urandom"],
];
const SINKS = ["/dev/null", "/dev/zero", "/dev/full"];
/** How names of machines are looked up, and certificates checked. */
const NETWORK = [
  ...["/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"],
  // Where resolv.conf leads to; it is replaced by renaming.
  ...["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"],
  ...[
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/var/lib/ca-certificates",
  ],
];

/** Landlock's rules for it. */
export function rulesFor(program: string, { files, configuration, directory, remote }: Reach): Rule[] {
  const allow = (paths: readonly string[], access: number): Rule[] => paths.map((path) => [path, access]);
  return [
    ...allow([program, ...PROGRAMS], Access.run),
    ...allow([...SYSTEM, ...(remote ? NETWORK : []), ...configuration], Access.read),
    ...allow(SINKS, Access.readDisk | Access.writeDisk),
    ...allow(directory === null ? [] : [directory], Access.makeSockets),
    ...files.map(({ path, writable }): Rule => [path, writable ? Access.writeDisk : Access.readDisk]),
  ];
}
