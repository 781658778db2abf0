/**
 * The toolstack's part in a vbd's life, as libxl plays it: both xenstore directories in one transaction, the hotplug
 * script's verdict once the backend is at state 2, and the orderly removal.
 */
import { dirname } from "node:path";
import type { Xenstore, XenstoreTransaction, XenstoreWatch } from "../platform/ports.js";
import { parseState, XenbusState as State, type XenbusState } from "../platform/xenbus-state.js";
import { kindOf } from "../vbd/kind.js";
import type { VbdId } from "../vbd/name.js";

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
 * calls a forced remove; or never did.
 */
export type Removal = "closed" | "forced" | "unanswered";

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
  t: XenstoreTransaction,
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

/**
 * Adds a vbd. Where its kind has a hotplug script, waits until the backend is at state 2, and says what the script says
 * then. Rejects when there is such a vbd already, and when no backend takes it up in time; nothing is left in xenstore
 * then.
 */
export async function addVbd(xenstore: Xenstore, spec: VbdSpec, timeoutMs = TAKE_UP_MS): Promise<void> {
  const backend = backendOf(spec);
  const frontend = frontendOf(spec);
  await xenstore.transaction(async (t) => {
    if ((await t.read(`${backend}/state`)) !== null) {
      throw new Error(`domain ${spec.domid} has a disk ${spec.devid} already: detach it first`);
    }
    await writeAll(t, frontend, [`n${spec.domid}`, `r${spec.backendDomid}`], {
      backend,
      "backend-id": String(spec.backendDomid),
      state: "1",
      "virtual-device": String(spec.devid),
      "device-type": spec.cdrom ? "cdrom" : "disk",
      trusted: spec.trusted === false ? "0" : "1",
    });
    const permissions = [`n${spec.backendDomid}`, `r${spec.domid}`];
    await writeAll(t, backend, permissions, backendKeys(spec, frontend));
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

/** The hotplug script's part: rejects with the daemon's reason, and nothing is left in xenstore then. */
async function askDaemon(xenstore: Xenstore, spec: VbdSpec, timeoutMs: number): Promise<void> {
  const status = `${backendOf(spec)}/hotplug-status`;
  await xenstore.write(status, "checking");
  const answered = await waitForValue(xenstore, status, (value) => value !== "checking", timeoutMs);
  if (answered && (await xenstore.read(status)) === "connected") return;
  const why = await xenstore.read(`${backendOf(spec)}/hotplug-error`);
  await removeVbd(xenstore, spec, Math.min(timeoutMs, TIMEOUT_MS));
  if (why !== null) throw new Error(why);
  throw new Error(`the daemon does not say whether it can open ${spec.path}: look at its log`);
}

/** Asks the backend to close and waits until it has, with force if need be; removes both directories in any case. */
export async function removeVbd(
  xenstore: Xenstore,
  spec: VbdPlace & Partial<VbdSpec>,
  timeoutMs = TIMEOUT_MS,
): Promise<Removal> {
  const backend = backendOf(spec);
  const gone = (state: XenbusState): boolean => state === State.Closed || state === State.Unknown;
  let removal: Removal = "closed";
  await askToClose(xenstore, spec, false);
  if (!(await waitForState(xenstore, backend, gone, timeoutMs))) {
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
    if (force) await t.remove(frontendOf(spec));
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
    await t.remove(frontendOf(spec));
    await t.remove(backend);
    if ((await t.directory(ofGuest))?.length === 0) await t.remove(ofGuest);
  });
}

/** True once the state fits, false after the time-out. Rejects when xenstore cannot be read. */
export function waitForState(
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
      timer = setTimeout(() => resolve(false), timeoutMs);
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
