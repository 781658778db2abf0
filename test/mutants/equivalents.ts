/** Changes that nobody can notice, each with its proof in a line. A test sees to it that none is here of a line that is gone. */
export interface Equivalent {
  /** Of assembly/. */
  readonly file: string;
  /** The lines before and after. */
  readonly from: string;
  readonly to: string;
  readonly why: string;
}

export const EQUIVALENTS: readonly Equivalent[] = [
  {
    file: "coalesce.ts",
    from: "if (!areWhole(request) || !areNeighbours(segments, request.segments)) return 0;",
    to: "if (true) return 0;",
    why: "a run is found again page by page, and makes the same iovecs",
  },
  {
    file: "coalesce.ts",
    from: "let openRead: u32 = 0;",
    to: "let openRead: u32 = 1;",
    why: "beginPlan() sets it before plan() looks at it",
  },
  {
    file: "hazards.ts",
    from: "if (isFlush(request) && changing != 0) return true;",
    to: "if (isFlush(request) || changing != 0) return true;",
    why: "where mayConflict() is true and nothing conflicts, comparing the requests one by one finds so",
  },
  {
    file: "hazards.ts",
    from: "request.flags &= ~ACTIVE; note(request, changes(request), -1);",
    to: "note(request, changes(request), -1); request.flags &= ~ACTIVE;",
    why: "note() and changes() do not look at the flags",
  },
  {
    file: "persistent.ts",
    from: "return (load<u32>(entryAt(bucketOf(gref)), 4) - 1) & (MAX_PERSISTENT - 1);",
    to: "return (load<u32>(entryAt(bucketOf(gref)), 5) - 1) & (MAX_PERSISTENT - 1);",
    why: "any page below MAX_PERSISTENT may be guessed: it is compared with the grant, and where it is wrong, the hash is asked",
  },
  {
    file: "persistent.ts",
    from: "previous = gref;",
    to: "",
    why: "the page is a guess, which is compared with the grant; where it is wrong, the hash is asked",
  },
  {
    file: "request.ts",
    from: "for (let i = 0; i < MAX_LARGE; i++) store<u16>(FREE_LARGE + (i << 1), i);",
    to: "for (let i = 0; i <= MAX_LARGE; i++) store<u16>(FREE_LARGE + (i << 1), i);",
    why: "behind the list are the hazard counts, which reset() clears after it",
  },
  {
    file: "request.ts",
    from: "request.flags &= ~LARGE; store<u16>(FREE_LARGE + (freeLarge++ << 1), request.large);",
    to: "store<u16>(FREE_LARGE + (freeLarge++ << 1), request.large); request.flags &= ~LARGE;",
    why: "neither reads what the other writes",
  },
];

/** The same of bugs in named.ts, by their names. */
export const NAMED_EQUIVALENTS: Readonly<Record<string, string>> = {
  "answered is noted after the response":
    "until rsp_prod is published, BUSY and ANSWERED at an index from rsp_prod on are both in flight for who recovers " +
    "(isInFlight), and the place of the response is that of a request whose copy is in the journal",
};
