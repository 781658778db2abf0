/** For node's --import: from now on this process' kernel has pages of 64 KiB, as far as the C library tells. */
import koffi from "koffi";

const { load } = koffi;
koffi.load = (path) => {
  const library = load(path);
  const func = (prototype: string): unknown =>
    prototype.includes("getpagesize") ? () => 65536 : library.func(prototype);
  // All that the host asks of a library.
  return { func } as ReturnType<typeof load>;
};
