// The two calls of WASI that wasi.ts makes, for the type checker; the compiler takes the shim's own file.
// Source: wasi_snapshot_preview1. Addresses and lengths are in bytes of linear memory.

export type errno = u16;
export declare namespace errno {
  const SUCCESS: errno;
}

export declare function fd_read(fd: u32, iovs: usize, iovsLength: usize, count: usize): errno;
export declare function fd_write(fd: u32, iovs: usize, iovsLength: usize, count: usize): errno;
