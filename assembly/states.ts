// The life of a request. A pass moves it as far as it goes without the host (see index.ts).

export const FREE: u8 = 0;
/** Its copy is in the journal; nothing has been looked at. */
export const TAKEN: u8 = 1;
/** Its indirect page is being copied. */
export const FETCHING: u8 = 2;
/** It waits for earlier requests (see hazards.ts). */
export const HELD: u8 = 3;
/** It was HELD and need not wait any more; it is in the ready list. */
export const READY: u8 = 4;
/** Valid and free to go; its data is not there yet. */
export const ADMITTED: u8 = 5;
export const MAPPING: u8 = 6;
export const COPYING: u8 = 7;
/** Data in place: next is an I/O. */
export const LOADED: u8 = 8;
/** Part of an I/O that the host carries out. */
export const BUSY: u8 = 9;
/** Read; the data must be copied to the guest. */
export const READ_DONE: u8 = 10;
export const COPYING_OUT: u8 = 11;
/** Only the response is missing. */
export const DONE: u8 = 12;

/** The states that may follow one, a bit each. */
function followers(state: u8): u32 {
  switch (state) {
    case FREE:
      return 1 << TAKEN;
    // One that is recovered has been TAKEN by another instance.
    case TAKEN:
      return (1 << TAKEN) | (1 << FETCHING) | (1 << HELD) | (1 << ADMITTED) | (1 << DONE);
    case FETCHING:
      return (1 << HELD) | (1 << ADMITTED) | (1 << DONE);
    case HELD:
      return 1 << READY;
    case READY:
      return 1 << ADMITTED;
    case ADMITTED:
      return (1 << MAPPING) | (1 << COPYING) | (1 << LOADED);
    // Where a page cannot be mapped, its data are copied.
    case MAPPING:
      return (1 << ADMITTED) | (1 << LOADED);
    case COPYING:
      return (1 << LOADED) | (1 << DONE);
    case LOADED:
      return 1 << BUSY;
    // An I/O of several that failed is done again one by one.
    case BUSY:
      return (1 << LOADED) | (1 << READ_DONE) | (1 << DONE);
    case READ_DONE:
      return 1 << COPYING_OUT;
    case COPYING_OUT:
      return 1 << DONE;
    case DONE:
      return 1 << FREE;
    default:
      return 0;
  }
}

/** Whether a request that is in one state may enter another. */
export function mayFollow(state: u8, next: u8): bool {
  return (followers(state) & (1 << next)) != 0;
}
