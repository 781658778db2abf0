/** How much memory this process could have: the machine's, or that of a container or a unit with MemoryMax=. */
import { totalmem } from "node:os";

export function machineMemory(): number {
  // 0 or more than there is where nothing limits it.
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}
