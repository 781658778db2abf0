/** The open files that have a disk's locks, where they outlive the process (host/daemon/kept-descriptors.ts). */

/**
 * Such open files do no I/O: it goes through others, opened anew (see openStore). They are closed by whoever keeps them,
 * not with the disk.
 */
export interface Claims {
  /** The open file that has the locks of what was opened at a path, by this process or by one before; null where none is. */
  get(path: string): number | null;
  add(path: string, fd: number): void;
}
