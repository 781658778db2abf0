/** Changes that nobody can notice, each with its proof in a line. A test sees to it that none is here of a line that is gone. */
export interface Equivalent {
  /** Of assembly/. */
  readonly file: string;
  /** The lines before and after. */
  readonly from: string;
  readonly to: string;
  readonly why: string;
}

export const EQUIVALENTS: readonly Equivalent[] = [];

/** The same of bugs in named.ts, by their names. */
export const NAMED_EQUIVALENTS: Readonly<Record<string, string>> = {
  "answered is noted after the response":
    "until rsp_prod is published, BUSY and ANSWERED at an index from rsp_prod on are both in flight for who recovers " +
    "(isInFlight), and the place of the response is that of a request whose copy is in the journal",
};
