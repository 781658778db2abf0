/**
 * Discards on block devices, which io_uring has since Linux 6.12 only, and none that are secure: one at a time for each open
 * file, so that a disk whose discards take long keeps one thread and no other disk waiting.
 */
import type { SystemError } from "../../platform/libc.js";
import type { ErrnoDone } from "../engine.js";
import { Place } from "./place.js";

export function discardBlocks(
  fd: number,
  secure: boolean,
  position: number,
  length: number,
  done: ErrnoDone,
): void {
  Place.of(`descriptor ${fd}`)
    .call("blockDiscard", fd, secure, position, length)
    .then(
      () => done(0),
      ({ errno }: SystemError) => done(errno),
    );
}
