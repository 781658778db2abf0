/** Tests in which another user runs something. */
import { spawnSync } from "node:child_process";

/** The user "nobody" of Linux. */
export const NOBODY = 65534;

/** Why this process cannot start Node as somebody else, or false. */
export function otherUserMissing(): string | false {
  if (process.getuid?.() !== 0) return "needs root, to be somebody else";
  const { status } = spawnSync(process.execPath, ["--version"], { uid: NOBODY, cwd: "/" });
  return status === 0 ? false : `other users may not run ${process.execPath}`;
}
