/** The command line of qemu-storage-daemon, which serves an image as a vhost-user-blk disk on a private socket. */
import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { SECTOR } from "../geometry.js";
import { KEY, keyObject } from "../key-file.js";
import { credentialFiles } from "../nbd/tls.js";
import { IMAGE_FORMATS } from "../source.js";
import { MOST_QUEUES } from "../vhost-user/handshake.js";
import {
  CONNECTION_FD,
  type HelpedSource,
  type HelperCommand,
  type HowToServe,
  type Layer,
  type NbdExport,
} from "./command.js";
import { JOBS_MONITOR, jobsOf, monitorOf } from "./monitor.js";
import type { Reach } from "./reach.js";

/** QEMU's ways to do I/O on files. With threads it does a third of what it does with io_uring, which a kernel may forbid. */
export const AIO = ["io_uring", "threads"] as const;
export type Aio = (typeof AIO)[number];

/** One that another daemon has started, whatever for. */
export const ANY_STORAGE_DAEMON: HelperCommand = {
  program: "qemu-storage-daemon",
  package: "qemu-system-common",
  args: [],
  reach: { files: [], configuration: [], directory: null, remote: false },
  hasMonitor: true,
};

/**
 * It opens the image, and locks it, when it starts, and serves one client after the other. Without an iothread: with one,
 * QEMU 7.2 never ends when it is asked to while a client is connected.
 */
export function storageDaemon(source: HelpedSource | NbdExport, how: HowToServe, aio: Aio): HelperCommand {
  const { readOnly, cache, socket, sectorSize = SECTOR, writesBase = false } = how;
  const disk = diskOf(source, how, aio);
  const node = {
    ...{ "node-name": "disk", "read-only": readOnly, discard: "unmap" },
    // With false the page cache is used. A guest's flush is a flush in both cases. The nodes below inherit it.
    cache: { direct: cache === "none", "no-flush": false },
    ...disk.node,
  };
  const server = {
    ...{ type: "vhost-user-blk", id: "disk", "node-name": "disk", writable: !readOnly },
    addr: { type: "unix", path: socket },
    "num-queues": MOST_QUEUES,
    ...(sectorSize !== SECTOR && { "logical-block-size": sectorSize }),
  };
  return {
    ...ANY_STORAGE_DAEMON,
    reach: disk.reach,
    takesConnection: source.kind === "nbd",
    args: [
      ...["--chardev", listening("monitor", monitorOf(socket)), "--monitor", "chardev=monitor"],
      ...(writesBase ? ["--chardev", listening("jobs", jobsOf(socket)), "--monitor", JOBS_MONITOR] : []),
      ...disk.secrets.flatMap((object) => ["--object", JSON.stringify(object)]),
      ...["--blockdev", JSON.stringify(node), "--export", JSON.stringify(server)],
    ],
  };
}

/** A comma in a value is written twice. */
function listening(id: string, path: string): string {
  return `socket,id=${id},path=${path.replaceAll(",", ",,")},server=on,wait=off`;
}

interface Disk {
  /** QEMU's description of it. */
  readonly node: object;
  readonly reach: Reach;
  /** QEMU's objects that it refers to. */
  readonly secrets: readonly object[];
}

function diskOf(source: Parameters<typeof storageDaemon>[0], how: HowToServe, aio: Aio): Disk {
  if (source.kind === "image") return imageFile(source, how, aio);
  return source.kind === "nbd" ? nbdExport(source, how) : cephImage(source, how);
}

/** An image and its bases, and nothing else. */
function imageFile(
  { format, path }: Extract<HelpedSource, { kind: "image" }>,
  { readOnly, shared, socket, block = false, bases = [], writesBase = false, keyFile }: HowToServe,
  aio: Aio,
): Disk {
  const image = { driver: IMAGE_FORMATS[format], path, block };
  const written = readOnly ? 0 : writesBase ? 2 : 1;
  const keyFiles = keyFile === undefined ? [] : [keyFile];
  const node = nodeOf(image, shared ? "off" : "on", bases, aio, writesBase);
  return {
    node: keyFile === undefined ? node : { ...node, ...decrypted(image.driver) },
    secrets: keyFiles.map(keyObject),
    reach: {
      files: [image, ...bases].map(({ path }, i) => ({ path, writable: i < written })),
      configuration: keyFiles,
      directory: dirname(socket),
      remote: false,
    },
  };
}

/** How an encrypted image is told its passphrase. */
function decrypted(driver: string): object {
  return driver === "luks" ? { "key-secret": KEY } : { encrypt: { format: "luks", "key-secret": KEY } };
}

/** Formats whose images may have a base. Where nothing is said of it, QEMU opens the one that the header names. */
const WITH_BASES: readonly string[] = ["qcow", "qcow2", "qed", "vmdk"];

/** QEMU's name for a base that a job writes, which gives back what the guest has discarded. */
export const BASE_NODE = "base";
const WRITTEN_BASE = { "node-name": BASE_NODE, discard: "unmap" };

/** An image and its bases, which leaves QEMU nothing to guess and no file to choose. */
function nodeOf(
  { driver, path, block }: Layer,
  locking: string,
  [base, ...bases]: readonly Layer[],
  aio: Aio,
  writesBase = false,
): object {
  const file = { driver: block ? "host_device" : "file", filename: path, locking, aio };
  if (!WITH_BASES.includes(driver)) return { driver, file };
  if (!base) return { driver, file, backing: null };
  const backing = nodeOf(base, "auto", bases, aio);
  return { driver, file, backing: writesBase ? { ...backing, ...WRITTEN_BASE } : backing };
}

/**
 * The disk of an NBD server, over the connection that it is given. It can make no other one: so when that one breaks, nothing
 * succeeds any more, and no flush of another server's can seem to cover what this one has lost.
 */
function nbdExport({ exportName, size, tls }: NbdExport, { socket }: HowToServe): Disk {
  const server = { type: "fd", str: String(CONNECTION_FD) };
  const plain = { driver: "nbd", server, export: exportName, "reconnect-delay": 0 };
  const reach = { files: [], configuration: [], directory: dirname(socket), remote: false };
  if (tls === undefined) return { node: { driver: "raw", size, file: plain }, secrets: [], reach };
  const { certificates: dir, hostname } = tls;
  const credentials = {
    "qom-type": "tls-creds-x509",
    id: "tls",
    endpoint: "client",
    dir,
    "verify-peer": true,
  };
  return {
    node: { driver: "raw", size, file: { ...plain, "tls-creds": "tls", "tls-hostname": hostname } },
    secrets: [credentials],
    reach: { ...reach, configuration: [dir, ...credentialFiles(tls)].filter((path) => existsSync(path)) },
  };
}

/** A raw image in a cluster. */
function cephImage(
  { pool, namespace, image }: Extract<HelpedSource, { kind: "rbd" }>,
  { socket }: HowToServe,
): Disk {
  const file = { driver: "rbd", pool, image, ...(namespace !== "" && { namespace }) };
  return { node: { driver: "raw", file }, secrets: [], reach: cephReach(dirname(socket)) };
}

/** The cluster's configuration, and the keys that lie beside it. */
export function cephReach(directory: string | null): Reach {
  const conf = process.env["CEPH_CONF"];
  const directories = ["/etc/ceph", ...(conf?.startsWith("/") ? [dirname(conf)] : [])];
  const files = directories.flatMap((directory) => {
    try {
      return readdirSync(directory).map((name) => join(directory, name));
    } catch {
      return [];
    }
  });
  const configuration = [...directories, ...files].filter((path) => existsSync(path));
  return { files: [], configuration, directory, remote: true };
}
