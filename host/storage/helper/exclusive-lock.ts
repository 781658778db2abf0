/**
 * Ceph's own fence. Of an image with the feature exclusive-lock, one client at a time may write. A client takes the lock before its
 * first write; from one that is dead it takes it by having the cluster refuse whatever that has sent and was not carried
 * out yet (it is blocklisted). So a new helper's writes come after all of the dead one's, by whomever that was started.
 */
import { constants } from "node:os";
import { DeviceError } from "../open.js";
import type { HelpedSource } from "./command.js";
import { runConfined } from "./run-confined.js";
import { cephReach } from "./storage-daemon.js";

/** Rejects with a {@link DeviceError} where that cannot be told. */
export async function hasExclusiveLock(
  name: string,
  { pool, namespace, image }: Extract<HelpedSource, { kind: "rbd" }>,
): Promise<boolean> {
  const where = ["--pool", pool, ...(namespace === "" ? [] : ["--namespace", namespace]), "--image", image];
  const program = { name: "rbd", package: "ceph-common" };
  try {
    const text = await runConfined(name, program, ["info", "--format", "json", ...where], cephReach(null));
    const { features } = JSON.parse(text) as { features?: unknown };
    return Array.isArray(features) && features.includes("exclusive-lock");
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const why = `rbd does not tell whether it has an exclusive lock: ${(error as Error).message}`;
    throw new DeviceError(constants.errno.EIO, name, why);
  }
}
