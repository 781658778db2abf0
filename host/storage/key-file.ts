/**
 * A file with a secret: a passphrase, a password, a private key. Command lines, the store, logs and what commands show have
 * its path alone.
 */
import { constants } from "node:os";
import { isType } from "./calls/file-stats.js";
import { Place } from "./calls/place.js";
import { DeviceError, errnoOf, refusal } from "./open.js";

const { EACCES, EINVAL } = constants.errno;
const ALL_USERS = 0o007;

/** QEMU's object for it: what needs the secret names this. */
export const KEY = "key";

export function keyObject(path: string): object {
  return { "qom-type": "secret", id: KEY, file: path };
}

/** Rejects with a {@link DeviceError} where it is not there, or is no secret. As with ssh's keys, that is not a warning. */
export async function checkKeyFile(path: string): Promise<void> {
  const stats = await Place.of(path)
    .stat()
    .catch(async (error: unknown) => {
      throw await refusal(path, errnoOf(error));
    });
  if (!isType(stats, "file")) throw new DeviceError(EINVAL, path, "is not a file, and is to hold a secret");
  if (stats.mode & ALL_USERS)
    throw new DeviceError(EACCES, path, `holds a secret and is open to all users: \`chmod o= ${path}\``);
}
