/** Bugs that have a name: each is a mistake that somebody could make, and a test of less than a minute must fail for it. */
export interface Named {
  readonly name: string;
  /** A file of assembly/, a text that is in it once, and what is put for it. */
  readonly edits: readonly (readonly [file: string, from: string, to: string])[];
}

const bug = (name: string, file: string, from: string, to: string): Named => ({
  name,
  edits: [[file, from, to]],
});

export const NAMED: readonly Named[] = [
  bug(
    "SIMD: last_sect up to 15 passes",
    "segments.ts",
    "const beyond = (PAGE_SECTORS - 1) ^ 255;",
    "const beyond = (2 * PAGE_SECTORS - 1) ^ 255;",
  ),
  bug("scalar: last_sect 8 passes", "segments.ts", "(PAGE_SECTORS - 1 - last)", "(PAGE_SECTORS - last)"),
  bug(
    "range check wraps at 2^64",
    "decode.ts",
    "request.sector > size || request.sectors > size - request.sector",
    "request.sector + request.sectors > size",
  ),
  bug(
    "overlap of one sector is missed",
    "hazards.ts",
    "b.sector < a.sector + a.sectors",
    "b.sector + 1 < a.sector + a.sectors",
  ),
  bug(
    "bounds of changing requests one sector short",
    "hazards.ts",
    "changingHigh = max(changingHigh, end)",
    "changingHigh = max(changingHigh, end - 1)",
  ),
  bug(
    "only the first bucket is marked",
    "hazards.ts",
    `  const last = (request.sector + request.sectors - 1) >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    const at`,
    `  const last = request.sector >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    const at`,
  ),
  bug(
    "a flush does not wait for writes",
    "hazards.ts",
    "if (isFlush(later) && changes(earlier)) return true;",
    "",
  ),
  bug(
    "unsupported discard is ERROR",
    "complete.ts",
    `request.operation == BLKIF_OP_WRITE_BARRIER ||
    request.operation == BLKIF_OP_DISCARD;`,
    "request.operation == BLKIF_OP_WRITE_BARRIER;",
  ),
  bug(
    "notify off by one",
    "ring.ts",
    "rspProd - rspEventSeen >= rspProd - old",
    "rspProd - rspEventSeen > rspProd - old",
  ),
  bug(
    "final check without the second look",
    "ring.ts",
    `<u32>taken + 1);
  return unconsumed() != 0;`,
    `<u32>taken + 1);
  return false;`,
  ),
  bug(
    "ring overflow measured without those in flight",
    "ring.ts",
    "claimed > entries - (<u32>taken - rspPublished)",
    "claimed > entries",
  ),
  bug(
    "upper half of the id lost",
    "ring.ts",
    "storeResponse(to, request.id,",
    "storeResponse(to, <u64>(<u32>request.id),",
  ),
  bug("persistent reuse without comparing the gref", "persistent.ts", " | <u64>(load<u32>(it) ^ gref)", ""),
  bug(
    "NO_ROOM leaks users",
    "persistent.ts",
    `leavePages(start, at);
        return NO_ROOM;`,
    "return NO_ROOM;",
  ),
  bug("hash gap closed wrongly", "persistent.ts", ">= ((index - gap)", "> ((index - gap)"),
  bug(
    "last statuses of a copy batch ignored",
    "data.ts",
    `  markFaults(i, copies);
`,
    "",
  ),
  bug(
    "iovec limit not checked in join",
    "coalesce.ts",
    "if (<u32>io.iovecs + needed > <u32>IOVECS_PER_SLOT) return false;",
    "",
  ),
  bug(
    "recovery: response at rsp_prod counts as published",
    "recover.ts",
    "- published) >= 0",
    "- published) > 0",
  ),
  bug(
    "answered is noted after the response",
    "complete.ts",
    `  noteAnswered(slot, rspProd);
  respond(request);`,
    `  respond(request);
  noteAnswered(slot, rspProd - 1);`,
  ),
  bug(
    "slot leaks where a large request has to wait",
    "index.ts",
    `      freeSlot(slot);
`,
    "",
  ),
  bug("trim drops pages in use", "persistent.ts", "it.touched || it.users != 0", "it.touched"),
  bug(
    "more segments than offered pass",
    "decode.ts",
    "segments == 0 || segments > maxIndirect",
    "segments == 0 || segments > 256",
  ),
  bug("shared words read without barrier", "shared.ts", "atomic.load<u32>(at)", "load<u32>(at)"),
  bug(
    "rsp_prod stored without barrier",
    "shared.ts",
    "atomic.store<u32>(at, value)",
    "store<u32>(at, value)",
  ),
  {
    name: "double fetch: large is judged on the ring",
    edits: [
      [
        "ring.ts",
        "/** The request in a slot is taken. */",
        `export function next(): u32 {
  return SRING_ENTRIES + (<u32>taken & (entries - 1)) * stride;
}
`,
      ],
      ["index.ts", "  missedResponse,\n", "  missedResponse,\n  next,\n"],
      [
        "index.ts",
        "const copy = copyRequest(slot);\n    const large = isLarge(copy);",
        "const copy = copyRequest(slot);\n    const large = isLarge(next());",
      ],
    ],
  },
  bug(
    "secure flag read where not offered",
    "decode.ts",
    "features & FEATURE_SECURE_DISCARD && load<u8>(copy, 1)",
    "load<u8>(copy, 1)",
  ),
  bug(
    "wake-up lost behind a large one",
    "index.ts",
    "(wantsLarge && freeLarge == 0)) return flags",
    "wantsLarge) return flags",
  ),
  bug(
    "barrier waits only for changes",
    "hazards.ts",
    "if (isBarrier(later) || isBarrier(earlier)) return true;",
    "if (isBarrier(earlier) || (isBarrier(later) && changes(earlier))) return true;",
  ),
  bug(
    "recovered CONFIG read-only ignored",
    "recover.ts",
    "load<u32>(JOURNAL_FEATURES) | readOnly",
    "load<u32>(JOURNAL_FEATURES)",
  ),
  bug("split request is coalesced again", "coalesce.ts", " && !(request.flags & ALONE)", ""),
  bug(
    "a grant fault of one request marks its neighbour in SIMD owner",
    "data.ts",
    "const owners = slot | (slot << 16);",
    "const owners = slot | ((slot + 1) << 16);",
  ),
  bug(
    "unaligned discard passes on 4K",
    "decode.ts",
    "if (((request.sector | request.sectors) & alignment) != 0)",
    "if (request.operation != BLKIF_OP_DISCARD && ((request.sector | request.sectors) & alignment) != 0)",
  ),
];

/** The texts of a bug's files with it, by their paths; `read` has those without. Throws an Error where a file has changed. */
export function plant({ name, edits }: Named, read: (file: string) => string): Record<string, string> {
  const texts: Record<string, string> = {};
  for (const [file, from, to] of edits) {
    const path = `assembly/${file}`;
    const parts = (texts[path] ?? read(path)).split(from);
    if (parts.length !== 2)
      throw new Error(`${name}: ${path} has "${from}" ${parts.length - 1} times: say it anew`);
    texts[path] = parts.join(to);
  }
  return texts;
}
