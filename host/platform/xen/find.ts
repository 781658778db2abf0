/** Whether this process runs in a domain that can serve disks, and which one that is. */
import { existsSync, readFileSync } from "node:fs";
import { DEVICES } from "./abi.js";
import { connectXen } from "./xenstore.js";

/** There is no Xen below, or this domain has not what it takes: the message says what is missing. */
export class NoXenError extends Error {}

/** Where the kernel names the hypervisor below it. */
const HYPERVISOR_TYPE = "/sys/hypervisor/type";

/** This domain's domid, from xenstore. Rejects with a {@link NoXenError}. */
export async function ownDomid(): Promise<number> {
  requireDevices();
  try {
    const xenstore = await connectXen();
    try {
      // Relative to this domain's own directory.
      const domid = await xenstore.read("domid");
      if (domid !== null && /^[0-9]{1,5}$/.test(domid)) return Number(domid);
    } finally {
      xenstore.close();
    }
  } catch (error) {
    throw new NoXenError((error as Error).message);
  }
  throw new NoXenError(
    "xenstore does not tell this domain's domid: run xen-init-dom0, or let xl start this domain",
  );
}

function requireDevices(): void {
  const missing = Object.entries(DEVICES).filter(([, path]) => !existsSync(path));
  if (missing.length === 0) return;
  const paths = missing.map(([, path]) => path).join(" and ");
  if (hypervisorType() !== "xen") throw new NoXenError(`no Xen here: there is no ${paths}`);
  const modules = missing.map(([name]) => `xen-${name}`).join(" ");
  throw new NoXenError(`there is no ${paths}: load the modules with \`modprobe -a ${modules}\``);
}

function hypervisorType(): string {
  try {
    return readFileSync(HYPERVISOR_TYPE, "utf8").trim();
  } catch {
    return "none";
  }
}

/** The kernel's own backend for a kind, when it is there: both would take the same disks. */
export function kernelBackendOf(kind: string): string | null {
  const path = `/sys/bus/xen-backend/drivers/${kind}`;
  return existsSync(path) ? path : null;
}
