/** Grants are pages of 4 KiB, and a kernel maps at multiples of its own pages, which on arm64 may be larger. */
import { PAGE_SIZE } from "../core/memory.js";
import { pageSize } from "./libc.js";

/** Why this kernel cannot map guests' pages, and what to do about it, in one line; null where it can. */
export function pageSizeRefusal(bytes = pageSize()): string | null {
  if (bytes === PAGE_SIZE) return null;
  return (
    `this kernel's pages have ${bytes / 1024} KiB, and it cannot map a guest's pages, which have ${PAGE_SIZE / 1024}: ` +
    `boot a kernel with which \`getconf PAGESIZE\` prints ${PAGE_SIZE} (Debian's linux-image-arm64)`
  );
}
