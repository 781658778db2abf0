// Where the fields of a ring entry lie, by request layout (xen/include/public/io/blkif.h; the i386 ABI aligns u64
// to 4 bytes, the others to 8). operation is at 0 everywhere, nr_segments / indirect_op / discard flag at 1.
import { ABI_X86_32 } from "./abi";

/** Bytes from one entry to the next: sizeof(union blkif_sring_entry). */
export let stride: u32 = 0;
/** id: u64 in requests; responses have it at 0. */
export let idOffset: u32 = 0;
/** sector_number: u64 in all requests. */
export let sectorOffset: u32 = 0;
/** seg[11] of a plain request; nr_sectors (u64) of a discard. */
export let bodyOffset: u32 = 0;
/** indirect_grefs[8]. */
export let indirectGrefsOffset: u32 = 0;

/** nr_segments of an INDIRECT: u16. */
export const INDIRECT_SEGMENTS = 2;
/** Fields of a response; its padding is never written (XSA-216). */
export const RESPONSE_ID = 0;
export const RESPONSE_OPERATION = 8;
export const RESPONSE_STATUS = 10;

export function selectLayout(abi: u32): void {
  const narrow = abi == ABI_X86_32;
  stride = narrow ? 108 : 112;
  idOffset = narrow ? 4 : 8;
  sectorOffset = narrow ? 12 : 16;
  bodyOffset = narrow ? 20 : 24;
  indirectGrefsOffset = narrow ? 24 : 28;
}
