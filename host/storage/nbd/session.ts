/** The transmission phase of one connection: requests go out as they come, replies come back in any order. */
import { constants } from "node:os";
import { Bytes, Chunk, Command, Magic, NbdError } from "../../nbd/protocol.js";
import { Coverage } from "./coverage.js";
import type { Line } from "./negotiate.js";
import { encodeHeader, type Request, slice } from "./request.js";

const { EIO } = constants.errno;
/** An error's chunk: u32 errno, u16 length, at most 4096 bytes of text, u64 offset. */
const LONGEST_ERROR = 4 + 2 + 4096 + 8;
const TWO_TO_32 = 4294967296;

interface Entry {
  readonly request: Request;
  /** Of a read with structured replies. */
  readonly coverage: Coverage | null;
  /** The kernel has all its bytes, so that its data may be used for something else. */
  sent: boolean;
  /** The server's error came, but not the end of its reply; or the reply has come before the request was sent. */
  errno: number;
  message: string;
  answered: boolean;
}

/** Sessions are told apart by the high half of their cookies, so that a late answer is nobody's. */
let sessions = 0;

export class Session {
  /** When it had nothing under way last, by performance.now(). */
  idleAt = performance.now();
  readonly #line: Line;
  readonly #number = ++sessions >>> 0;
  readonly #onBroken: (error: Error) => void;
  readonly #entries = new Map<number, Entry>();
  readonly #header = Buffer.alloc(Bytes.chunkHeader);
  readonly #short = [this.#header.subarray(0, Bytes.simpleReply)];
  readonly #rest = [this.#header.subarray(Bytes.simpleReply)];
  readonly #onReply = (): void => this.#reply();
  #nextCookie = 1;
  #corked = false;
  #over = false;

  /** Takes the line over. `onBroken` is called once when it is of no use any more, unless `end` comes first. */
  constructor(line: Line, onBroken: (error: Error) => void) {
    this.#line = line;
    this.#onBroken = onBroken;
    const { socket, receiver } = line;
    let cause: Error | null = null;
    socket.on("error", (error) => {
      cause = error;
    });
    socket.on("close", () => this.#break(cause ?? new Error("the server closed the connection")));
    receiver.onExcess = () => this.#break(new Error("the server sends data without end"));
    // Its owner has it before it may break of what has come already.
    queueMicrotask(() => this.#next());
  }

  get underWay(): number {
    return this.#entries.size;
  }

  /** Milliseconds for which the server has owed a reply and said nothing. */
  get silence(): number {
    if (this.#entries.size === 0) return 0;
    return performance.now() - Math.max(this.#line.receiver.lastAt, this.idleAt);
  }

  /** `request.done` is called when it is answered, unless the session breaks or ends before. */
  send(request: Request): void {
    const { exported, socket } = this.#line;
    const cookie = this.#nextCookie++ >>> 0;
    const reading = request.command === Command.read;
    const coverage = reading && exported.structured ? new Coverage(request.length) : null;
    const writing = request.command === Command.write;
    const entry: Entry = { request, coverage, sent: !writing, errno: 0, message: "", answered: false };
    if (this.#entries.size === 0) this.idleAt = performance.now();
    this.#entries.set(cookie, entry);
    this.#cork();
    socket.write(encodeHeader(request, this.#number, cookie));
    if (!writing) return;
    const { views } = request;
    for (const [i, view] of views.entries()) {
      if (i < views.length - 1) socket.write(view);
      else socket.write(view, () => this.#sent(cookie, entry));
    }
  }

  /** Says goodbye if all is answered, else just goes. The memory of what is under way is free afterwards. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    const { socket, receiver } = this.#line;
    receiver.stop();
    if (this.#entries.size > 0) {
      socket.destroy();
      return;
    }
    const goodbye = {
      command: Command.disconnect,
      flags: 0,
      position: 0,
      length: 0,
      views: [],
      done: () => {},
      lostAt: null,
    };
    socket.end(encodeHeader(goodbye, this.#number, 0));
  }

  /** Resolves when the socket is closed; after `milliseconds` it is, in any case. */
  async closed(milliseconds: number): Promise<void> {
    const { socket } = this.#line;
    if (socket.closed) return;
    const timer = setTimeout(() => socket.destroy(), milliseconds);
    await new Promise((resolve) => socket.once("close", resolve));
    clearTimeout(timer);
  }

  #break(error: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#line.receiver.stop();
    // From here on the kernel takes nothing more from the requests' memory.
    this.#line.socket.destroy();
    this.#onBroken(error);
  }

  /** What one pass of a ring starts goes to the kernel in one call. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    const { socket } = this.#line;
    socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      socket.uncork();
    });
  }

  #sent(cookie: number, entry: Entry): void {
    entry.sent = true;
    if (entry.answered) this.#finish(cookie, entry);
  }

  #finish(cookie: number, entry: Entry): void {
    if (this.#over) return;
    entry.answered = true;
    // A reply may outrun the word that its request is sent, or its server may lie.
    if (!entry.sent) return;
    if (entry.errno === NbdError.ESHUTDOWN) {
      this.#break(new Error("the server is shutting down"));
      return;
    }
    this.#entries.delete(cookie);
    this.idleAt = performance.now();
    entry.request.done(entry.errno, entry.message);
  }

  /** The next reply. Only while the session lasts. */
  #next(): void {
    if (!this.#over) this.#line.receiver.take(this.#short, this.#onReply);
  }

  #rubbish(what: string): void {
    this.#break(new Error(`NBD protocol error: ${what}`));
  }

  /** The first 16 bytes of a reply have come; that is all of a simple one. */
  #reply(): void {
    const header = this.#header;
    const magic = header.readUInt32BE(0);
    const structured = magic === Magic.structuredReply;
    if (!structured && magic !== Magic.simpleReply) {
      this.#rubbish(`0x${magic.toString(16)} where a reply should begin`);
      return;
    }
    if (structured && !this.#line.exported.structured) {
      this.#rubbish("a structured reply that was not negotiated");
      return;
    }
    const cookie = header.readUInt32BE(12);
    const entry = header.readUInt32BE(8) === this.#number ? this.#entries.get(cookie) : undefined;
    if (!entry || entry.answered) {
      this.#rubbish("a reply to a request that was never made");
      return;
    }
    if (structured) this.#line.receiver.take(this.#rest, () => this.#chunk(cookie, entry));
    else this.#simple(cookie, entry);
  }

  #simple(cookie: number, entry: Entry): void {
    entry.errno = this.#header.readUInt32BE(4);
    const ended = (): void => {
      this.#finish(cookie, entry);
      this.#next();
    };
    if (entry.coverage) this.#rubbish("a simple reply to a read");
    else if (entry.request.command !== Command.read || entry.errno !== 0) ended();
    else this.#line.receiver.take(entry.request.views, ended);
  }

  #chunk(cookie: number, entry: Entry): void {
    const header = this.#header;
    const last = (header.readUInt16BE(4) & Chunk.flagDone) !== 0;
    const type = header.readUInt16BE(6);
    const length = header.readUInt32BE(16);
    const ended = (): void => {
      if (last) this.#complete(cookie, entry);
      this.#next();
    };
    const { receiver } = this.#line;
    if (type === Chunk.none && length === 0 && last) ended();
    else if (type === Chunk.offsetData && length > 8 && entry.coverage) {
      const offset = Buffer.alloc(8);
      receiver.take([offset], () => this.#data(entry, relative(offset, entry), length - 8, ended));
    } else if (type === Chunk.offsetHole && length === 12 && entry.coverage) {
      const hole = Buffer.alloc(12);
      receiver.take([hole], () => this.#hole(entry, relative(hole, entry), hole.readUInt32BE(8), ended));
    } else if (type >= Chunk.error && length >= 6 && length <= LONGEST_ERROR) {
      const body = Buffer.alloc(length);
      receiver.take([body], () => {
        // The first error counts.
        if (entry.errno === 0) {
          entry.errno = body.readUInt32BE(0) || EIO;
          entry.message = body.subarray(6, 6 + body.readUInt16BE(4)).toString();
        }
        ended();
      });
    } else this.#rubbish(`a chunk of type ${type} and ${length} bytes`);
  }

  #data(entry: Entry, offset: number, length: number, ended: () => void): void {
    if (!entry.coverage?.add(offset, length)) {
      this.#rubbish(`${length} bytes at ${offset} of a read`);
      return;
    }
    this.#line.receiver.take(slice(entry.request.views, offset, length), ended);
  }

  #hole(entry: Entry, offset: number, length: number, ended: () => void): void {
    if (!entry.coverage?.add(offset, length)) {
      this.#rubbish(`a hole of ${length} bytes at ${offset} of a read`);
      return;
    }
    for (const view of slice(entry.request.views, offset, length)) view.fill(0);
    ended();
  }

  /** The last chunk of a reply has come. */
  #complete(cookie: number, entry: Entry): void {
    if (entry.coverage && entry.errno === 0 && !entry.coverage.complete)
      this.#rubbish("a reply without all of the data");
    else this.#finish(cookie, entry);
  }
}

/** The place in a read that a chunk is for. Exact up to 2^53, and out of bounds beyond. */
function relative(body: Buffer, { request }: Entry): number {
  return body.readUInt32BE(0) * TWO_TO_32 + body.readUInt32BE(4) - request.position;
}
