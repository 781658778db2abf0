/**
 * The toolstack's part in a vbd's life, as libxl plays it: both xenstore directories and libxl's record in one
 * transaction, the hotplug script's verdict once the backend is at state 2, and the orderly removal.
 */
import { constants } from "node:os";
import { dirname } from "node:path";
import type { Xenstore, XenstoreTransaction, XenstoreWatch } from "../platform/ports.js";
import { parseState, XenbusState as State, type XenbusState } from "../platform/xenbus-state.js";
import { kindOf } from "../vbd/kind.js";
import type { VbdId } from "../vbd/name.js";
import { readRecord, removeRecord, writeRecord } from "./libxl-record.js";

export interface VbdSpec extends VbdId {
  /** The backend's domain. */
  readonly backendDomid: number;
  /** Device, image or another source. */
  readonly path: string;
  /** "r", "w", or "w!" to leave out the check for other users. */
  readonly mode: string;
  /** The guest's name for it: xvda. */
  readonly dev: string;
  /** Directory below `backend/`. Default "vbd". */
  readonly kind?: string;
  readonly cdrom?: boolean;
  /** Default: as the mode allows writing. */
  readonly discard?: boolean;
  /** False asks the guest to keep from us what it does not mean to write. Default true. */
  readonly trusted?: boolean;
  readonly directIoSafe?: boolean;
  /** Asks the daemon for the verdict on the store, as the script block-xbdback does, in place of giving it. */
  readonly ask?: boolean;
}

/** Where a vbd's directories are. */
export type VbdPlace = Pick<VbdSpec, "backendDomid" | "domid" | "devid" | "kind">;

/**
 * How a vbd went: the backend closed it; or closed it when its frontend's directory had been taken away, which libxl
 * calls a forced remove; or never did. "kept": it was not closed in time, and stays, because it was not to be forced.
 */
export type Removal = "closed" | "forced" | "unanswered" | "kept";

/** The hotplug script that asks the daemon (xen/block-xbdback). */
const SCRIPT = "/etc/xen/scripts/block-xbdback";

/** libxl's LIBXL_INIT_TIMEOUT and LIBXL_DESTROY_TIMEOUT. */
const TIMEOUT_MS = 10_000;
/** For a backend that is there and slow to take a vbd up, as on an emulated machine. */
const TAKE_UP_MS = 60_000;

/** The backend's directory. */
export function backendOf({ backendDomid, domid, devid, kind = "vbd" }: VbdPlace): string {
  return `/local/domain/${backendDomid}/backend/${kind}/${domid}/${devid}`;
}

/** Where a backend says why it cannot serve. */
function errorOf(spec: VbdSpec): string {
  return backendOf(spec).replace(/^(\/local\/domain\/\d+)/, "$1/error");
}

function frontendOf({ domid, devid }: VbdId): string {
  return `/local/domain/${domid}/device/vbd/${devid}`;
}

async function writeAll(
  t: Pick<XenstoreTransaction, "mkdir" | "setPermissions" | "write">,
  directory: string,
  permissions: string[],
  keys: Record<string, string>,
) {
  await t.mkdir(directory);
  await t.setPermissions(directory, permissions);
  for (const [key, value] of Object.entries(keys)) {
    await t.write(`${directory}/${key}`, value);
    await t.setPermissions(`${directory}/${key}`, permissions);
  }
}

/** The keys of a new vbd, as libxl writes them. */
function backendKeys(spec: VbdSpec, frontend: string): Record<string, string> {
  const { name, hotplug, formatted } = kindOf(spec.kind ?? "vbd");
  return {
    frontend,
    params: formatted && spec.path.startsWith("/") ? `raw:${spec.path}` : spec.path,
    "frontend-id": String(spec.domid),
    online: "1",
    removable: spec.cdrom ? "1" : "0",
    bootable: "1",
    state: "1",
    dev: spec.dev,
    type: !hotplug ? name : formatted ? "tap" : "phy",
    mode: spec.mode,
    "device-type": spec.cdrom ? "cdrom" : "disk",
    "discard-enable": (spec.discard ?? spec.mode.includes("w")) ? "1" : "0",
    specification: "xen",
    ...(spec.directIoSafe ? { "direct-io-safe": "1" } : {}),
    ...(spec.ask ? { script: SCRIPT } : {}),
  };
}

/** Whose virtual device it is already, as "its path at the backend"; null while it is free. */
async function ownerOf(t: XenstoreTransaction, spec: VbdSpec): Promise<string | null> {
  const backend = backendOf(spec);
  if ((await t.directory(backend)) !== null) return backend;
  // One record for all backends and kinds. One of ours that points at nothing was left when its domain was destroyed.
  const record = await readRecord(t, spec);
  if (record && !(record.ours && (await t.directory(record.backend)) === null)) return record.backend;
  const frontend = frontendOf(spec);
  const [other, state] = [await t.read(`${frontend}/backend`), await t.read(`${frontend}/state`)];
  if (other === null && state === null) return null;
  return other === null || (record?.ours && other === record.backend) ? null : other;
}

function inUse(spec: VbdSpec, owner: string): Error {
  const { domid, devid, dev } = spec;
  const disk = `domain ${domid} has a disk ${dev || devid} already`;
  // The path may be the guest's word.
  const place = /^\/local\/domain\/(\d+)\/backend\/(\w+)\/\d+\/\d+$/.exec(owner);
  if (owner === backendOf(spec))
    return new Error(`${disk}: detach it first with \`xbdback detach ${domid}/${devid}\``);
  const whose = place ? `, served by ${place[2]} of domain ${place[1]}` : "";
  return new Error(`${disk}${whose}: detach it first with \`xl block-detach ${domid} ${devid}\``);
}

/**
 * Adds a vbd. Where its kind has a hotplug script, waits until the backend is at state 2, and says what the script says
 * then. Rejects when the guest has such a virtual device already, whatever backend, domain or kind serves it, and when no
 * backend takes it up in time; nothing is changed in xenstore then.
 */
export async function addVbd(xenstore: Xenstore, spec: VbdSpec, timeoutMs = TAKE_UP_MS): Promise<void> {
  const backend = backendOf(spec);
  const frontend = frontendOf(spec);
  await xenstore.transaction(async (t) => {
    const owner = await ownerOf(t, spec);
    if (owner !== null) throw inUse(spec, owner);
    await writeAll(t, frontend, [`n${spec.domid}`, `r${spec.backendDomid}`], {
      backend,
      "backend-id": String(spec.backendDomid),
      state: "1",
      "virtual-device": String(spec.devid),
      "device-type": spec.cdrom ? "cdrom" : "disk",
      trusted: spec.trusted === false ? "0" : "1",
    });
    const permissions = [`n${spec.backendDomid}`, `r${spec.domid}`];
    const keys = backendKeys(spec, frontend);
    await writeAll(t, backend, permissions, keys);
    await writeRecord(t, spec, { ...keys, backend });
  });
  if (!kindOf(spec.kind ?? "vbd").hotplug) return;
  if (!(await waitForState(xenstore, backend, (state) => state === State.InitWait, timeoutMs))) {
    const why = await xenstore.read(`${errorOf(spec)}/error`);
    await removeNodes(xenstore, spec);
    if (why !== null) throw new Error(`the backend refused ${backend}: ${why}`);
    throw new Error(`no backend took up ${backend} within ${timeoutMs / 1000} s: is xbdback running?`);
  }
  if (spec.ask) return askDaemon(xenstore, spec, timeoutMs);
  await xenstore.transaction(async (t) => {
    await t.write(`${backend}/physical-device-path`, spec.path);
    await t.write(`${backend}/hotplug-status`, "connected");
  });
}

/**
 * The hotplug script's part. Rejects with the daemon's reason, with errno EBUSY if the disk is in use, and nothing is
 * left in xenstore then.
 */
async function askDaemon(xenstore: Xenstore, spec: VbdSpec, timeoutMs: number): Promise<void> {
  const status = `${backendOf(spec)}/hotplug-status`;
  await xenstore.write(status, "checking");
  const answered = await waitForValue(xenstore, status, (value) => value !== "checking", timeoutMs);
  const verdict = answered ? await xenstore.read(status) : null;
  if (verdict === "connected") return;
  const why = await xenstore.read(`${backendOf(spec)}/hotplug-error`);
  await removeVbd(xenstore, spec, Math.min(timeoutMs, TIMEOUT_MS));
  if (why !== null)
    throw Object.assign(new Error(why), verdict === "busy" ? { errno: constants.errno.EBUSY } : {});
  throw new Error(`no answer from the daemon about ${spec.path}: see its log`);
}

/**
 * Asks the backend to close and waits until it has; if that takes too long, either leaves all as it is or, with `force`,
 * takes the disk away from the guest. Then removes both directories.
 */
export async function removeVbd(
  xenstore: Xenstore,
  spec: VbdPlace & Partial<VbdSpec>,
  timeoutMs = TIMEOUT_MS,
  force = true,
): Promise<Removal> {
  const backend = backendOf(spec);
  const gone = (state: XenbusState): boolean => state === State.Closed || state === State.Unknown;
  let removal: Removal = "closed";
  await askToClose(xenstore, spec, false);
  if (!(await waitForState(xenstore, backend, gone, timeoutMs))) {
    if (!force) return "kept";
    removal = "forced";
    await askToClose(xenstore, spec, true);
    if (!(await waitForState(xenstore, backend, gone, timeoutMs))) removal = "unanswered";
  }
  await removeNodes(xenstore, spec);
  return removal;
}

async function askToClose(xenstore: Xenstore, spec: VbdPlace, force: boolean): Promise<void> {
  const backend = backendOf(spec);
  await xenstore.transaction(async (t) => {
    if (force) await removeFrontend(t, spec);
    const state = await t.read(`${backend}/state`);
    if (state === null) return;
    await t.write(`${backend}/online`, "0");
    if (parseState(state) !== State.Closed) await t.write(`${backend}/state`, String(State.Closing));
  });
}

/** With the guest's last disk its directory at the backend goes, too, as libxl has it. */
async function removeNodes(xenstore: Xenstore, spec: VbdPlace): Promise<void> {
  const backend = backendOf(spec);
  const ofGuest = dirname(backend);
  await xenstore.transaction(async (t) => {
    await removeFrontend(t, spec);
    await t.remove(backend);
    if ((await t.directory(ofGuest))?.length === 0) await t.remove(ofGuest);
    await removeRecord(t, spec);
  });
}

/** The frontend's directory goes only if it is this backend's. libxl's record counts; the directory is the guest's. */
async function removeFrontend(t: XenstoreTransaction, spec: VbdPlace): Promise<void> {
  const frontend = frontendOf(spec);
  const owner = (await readRecord(t, spec))?.backend ?? (await t.read(`${frontend}/backend`));
  if (owner === null || owner === backendOf(spec)) await t.remove(frontend);
}

/** True once the state fits, false after the time-out. Rejects when xenstore cannot be read. */
function waitForState(
  xenstore: Xenstore,
  directory: string,
  fits: (state: XenbusState) => boolean,
  timeoutMs = TIMEOUT_MS,
): Promise<boolean> {
  return waitForValue(xenstore, `${directory}/state`, (value) => fits(parseState(value)), timeoutMs);
}

/** As {@link waitForState}, for the value of any node; null where there is none. */
async function waitForValue(
  xenstore: Xenstore,
  path: string,
  fits: (value: string | null) => boolean,
  timeoutMs: number,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  let watch: XenstoreWatch | undefined;
  try {
    return await new Promise<boolean>((resolve, reject) => {
      // A process that has closed xenstore meanwhile, as one that was interrupted, need not stay for this.
      timer = setTimeout(() => resolve(false), timeoutMs).unref();
      const look = async (): Promise<void> => {
        if (fits(await xenstore.read(path))) resolve(true);
      };
      xenstore
        .watch(path, () => void look().catch(reject))
        .then((registered) => {
          watch = registered;
        }, reject);
    });
  } finally {
    clearTimeout(timer);
    await watch?.remove();
  }
}
