/** With more holes between its pieces, a server keeps us searching. */
const MOST_PIECES = 4096;

/** Which bytes of a read have come: a server may send its pieces in any order, but each byte once, and all of them. */
export class Coverage {
  readonly #length: number;
  /** [start, end[ in order, neighbours joined. */
  readonly #pieces: [start: number, end: number][] = [];

  constructor(length: number) {
    this.#length = length;
  }

  /** False, and nothing added, when the piece is empty, out of bounds, or has come already, or there are too many. */
  add(start: number, length: number): boolean {
    const pieces = this.#pieces;
    const end = start + length;
    if (length === 0 || start < 0 || end > this.#length) return false;
    let at = pieces.length;
    while (at > 0 && pieces[at - 1][0] >= end) at--;
    const before = pieces[at - 1];
    if (before && before[1] > start) return false;
    const after = pieces[at];
    if (before?.[1] === start) before[1] = end;
    else if (pieces.length >= MOST_PIECES && after?.[0] !== end) return false;
    else pieces.splice(at++, 0, [start, end]);
    if (after?.[0] === end) {
      pieces[at - 1][1] = after[1];
      pieces.splice(at, 1);
    }
    return true;
  }

  get complete(): boolean {
    const [first] = this.#pieces;
    return first !== undefined && first[0] === 0 && first[1] === this.#length;
  }
}
