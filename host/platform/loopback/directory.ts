/** Whose a hypervisor's directory is. */
import { existsSync, lstatSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { HypervisorError } from "./wire.js";

/**
 * Throws a HypervisorError for a directory to which another user can write: there could be links in it to files of ours,
 * which would be written then. A link to a directory is refused, too: it could be moved.
 */
export function refuseForeign(directory: string): void {
  const stats = lstatSync(directory, { throwIfNoEntry: false });
  if (!stats) return;
  const fail = (why: string, remedy: string): never => {
    throw new HypervisorError("EPERM", `${directory} ${why}: ${remedy}`);
  };
  if (!stats.isDirectory()) fail("is not a directory itself", "name the directory");
  // Root's is as good: root can do all of it anyway, and a daemon may have a user of its own.
  if (stats.uid !== 0 && stats.uid !== process.geteuid?.()) {
    fail(`belongs to user ${stats.uid}`, "run this as that user, or choose another directory");
  }
  if ((stats.mode & 0o022) !== 0) {
    fail("can be written to by other users", "choose a new directory, which gets mode 0700");
  }
}

/**
 * Makes a directory, and those above it, with mode 0700. Throws a HypervisorError where that cannot be. Not with mkdir's
 * `recursive`: that of Node 20 never ends where a directory that exists takes no others, as /proc does.
 */
export function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "EIO";
    if (code === "EEXIST") return;
    if (code !== "ENOENT" || existsSync(dirname(directory))) {
      throw new HypervisorError(code, `${directory} cannot be made (${code}): choose another directory`);
    }
    makeDirectory(dirname(directory));
    makeDirectory(directory);
  }
}

/** What to do where no machine runs. */
export function startMachine(directory: string): string {
  return `start it with \`xbdback machine ${directory}\``;
}
