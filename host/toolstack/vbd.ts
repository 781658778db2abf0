/**
 * The toolstack's part in a vbd's life, as libxl plays it: both xenstore directories in one transaction, the hotplug
 * script's verdict once the backend is at state 2, and the orderly removal.
 */
import type { Xenstore, XenstoreTransaction } from "../platform/ports.js";
import type { VbdId } from "../vbd/name.js";
import { parseState, XenbusState as State, type XenbusState } from "../vbd/xenbus.js";

export interface VbdSpec extends VbdId {
  /** The backend's domain. */
  readonly backendDomid: number;
  /** Device or image. */
  readonly path: string;
  /** "r", "w", or "w!" to leave out the check for other users. */
  readonly mode: string;
  /** The guest's name for it: xvda. */
  readonly dev: string;
}

/** libxl's LIBXL_INIT_TIMEOUT and LIBXL_DESTROY_TIMEOUT. */
const TIMEOUT_MS = 10_000;

function backendOf({ backendDomid, domid, devid }: VbdSpec): string {
  return `/local/domain/${backendDomid}/backend/vbd/${domid}/${devid}`;
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

/**
 * Adds a vbd and waits until the backend is at state 2; then says what a hotplug script says. Rejects when no
 * backend answers in ten seconds; nothing is left in xenstore then.
 */
export async function addVbd(xenstore: Xenstore, spec: VbdSpec): Promise<void> {
  const backend = backendOf(spec);
  const frontend = frontendOf(spec);
  await xenstore.transaction(async (t) => {
    await writeAll(t, frontend, [`n${spec.domid}`, `r${spec.backendDomid}`], {
      backend,
      "backend-id": String(spec.backendDomid),
      state: "1",
      "virtual-device": String(spec.devid),
      "device-type": "disk",
      trusted: "1",
    });
    await writeAll(t, backend, [`n${spec.backendDomid}`, `r${spec.domid}`], {
      frontend,
      params: spec.path,
      "frontend-id": String(spec.domid),
      online: "1",
      removable: "0",
      bootable: "1",
      state: "1",
      dev: spec.dev,
      type: "phy",
      mode: spec.mode,
      "device-type": "disk",
      "discard-enable": spec.mode.includes("w") ? "1" : "0",
      specification: "xen",
    });
  });
  if (!(await waitForState(xenstore, backend, (state) => state === State.InitWait))) {
    await removeNodes(xenstore, spec);
    throw new Error(`no backend took up ${backend} within ${TIMEOUT_MS / 1000} s: is xbdback running?`);
  }
  await xenstore.transaction(async (t) => {
    await t.write(`${backend}/physical-device-path`, spec.path);
    await t.write(`${backend}/hotplug-status`, "connected");
  });
}

/** Asks the backend to close, waits until it has, and removes both directories. False when it did not in time. */
export async function removeVbd(xenstore: Xenstore, spec: VbdSpec): Promise<boolean> {
  const backend = backendOf(spec);
  await xenstore.transaction(async (t) => {
    const state = await t.read(`${backend}/state`);
    if (state === null) return;
    await t.write(`${backend}/online`, "0");
    if (parseState(state) !== State.Closed) await t.write(`${backend}/state`, String(State.Closing));
  });
  const gone = (state: XenbusState): boolean => state === State.Closed || state === State.Unknown;
  const closed = await waitForState(xenstore, backend, gone);
  await removeNodes(xenstore, spec);
  return closed;
}

async function removeNodes(xenstore: Xenstore, spec: VbdSpec): Promise<void> {
  await xenstore.transaction(async (t) => {
    await t.remove(frontendOf(spec));
    await t.remove(backendOf(spec));
  });
}

/** True once the state fits, false after the time-out. */
export async function waitForState(
  xenstore: Xenstore,
  directory: string,
  fits: (state: XenbusState) => boolean,
  timeoutMs = TIMEOUT_MS,
): Promise<boolean> {
  let settle: (fitted: boolean) => void;
  const result = new Promise<boolean>((resolve) => {
    settle = resolve;
  });
  const timer = setTimeout(() => settle(false), timeoutMs);
  const watch = await xenstore.watch(`${directory}/state`, () => {
    xenstore.read(`${directory}/state`).then(
      (value) => fits(parseState(value)) && settle(true),
      () => settle(false),
    );
  });
  const fitted = await result;
  clearTimeout(timer);
  await watch.remove();
  return fitted;
}
