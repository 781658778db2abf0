/** Asking an NBD server what it has: the client's half of the fixed newstyle handshake, up to NBD_OPT_INFO. */
import { connect, type Socket } from "node:net";
import { Bytes, Handshake, Info, Magic, Option, OptionReply, Transmission } from "../../nbd/protocol.js";
import { answersWithin } from "../calls/answers.js";
import { tooLarge } from "../size.js";
import type { Export } from "./export.js";
import { type Credentials, readCredentials, startTls } from "./tls.js";
import type { NbdAddress, NbdTls } from "./uri.js";

/** Longer replies to an option are nobody's. */
const LONGEST_REPLY = 64 << 10;
/** Replies to one option. */
const MOST_REPLIES = 64;
/** What comes before it is asked for is kept up to this. */
const MOST_EARLY_BYTES = 1 << 20;
const TWO_TO_32 = 4294967296;

/** What a server offers. Connects for that, within a time, and ends the connection. Rejects with an Error that says why not. */
export async function askExport(address: NbdAddress, milliseconds: number): Promise<Export> {
  const { socket: path, host, port, tls } = address;
  const credentials = tls ? await readCredentials(tls) : null;
  // connect(2) of a path looks it up in this thread.
  if (path !== null && !(await answersWithin(path, milliseconds)))
    throw new Error(`${path} does not answer; check the file system that it is on`);
  const socket = path === null ? connect({ host, port }) : connect({ path });
  let timer: NodeJS.Timeout | null = null;
  try {
    const exported = await new Promise<Export>((resolve, reject) => {
      socket.on("error", (error) => reject(unreachable(address, error as NodeJS.ErrnoException)));
      socket.once("close", () => reject(new Error("the server closed the connection in the handshake")));
      timer = setTimeout(() => reject(unanswered(address, milliseconds, socket.connecting)), milliseconds);
      const handshaker = new Handshaker(socket, reject);
      const secured = tls && credentials && { tls, credentials };
      handshaker.run(address.exportName, secured ?? null).then(resolve, reject);
    });
    socket.removeAllListeners("data").pause().destroySoon();
    return exported;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    if (timer) clearTimeout(timer);
  }
}

/** The remedy where systemd filters: the package's unit lets the daemon reach this machine alone. */
const FILTER = "let the unit's IPAddressAllow= name it: see Remote storage in xbdback(8)";

/** A filter of systemd's drops what it does not let through, so that a server behind it is not refused but silent. */
export function unanswered({ host, port }: NbdAddress, milliseconds: number, connecting: boolean): Error {
  const within = `within ${milliseconds / 1000} s`;
  if (!connecting) return new Error(`the server did not answer ${within}`);
  const filtered = process.env["INVOCATION_ID"] ? `, or ${FILTER}` : "";
  const text = `no answer from ${host}:${port} ${within}; start the NBD server${filtered}`;
  return new Error(text);
}

export function unreachable(address: NbdAddress, error: NodeJS.ErrnoException): Error {
  return new Error(whyUnreachable(address, error));
}

function whyUnreachable(
  { socket, host, port }: NbdAddress,
  { code, message }: NodeJS.ErrnoException,
): string {
  const where = socket ?? `${host}:${port}`;
  if (code === "ENOENT") return `no socket at ${where}; start the NBD server, or correct the path`;
  if (code === "ECONNREFUSED") return `connection refused by ${where}: is the NBD server running?`;
  if (socket === null && (code === "EPERM" || code === "EACCES"))
    return `not permitted to reach ${where}; ${FILTER}`;
  if (code === "EAI_AGAIN")
    return `no name server answers for ${host}; give its address, or ${FILTER.replace("it:", "that server, too:")}`;
  if (code === "EACCES") return `permission denied for ${where}; give this user access to it`;
  return `${where} cannot be reached: ${code ?? message}`;
}

interface Secured {
  readonly tls: NbdTls;
  readonly credentials: Credentials;
}

class Handshaker {
  readonly #failed: (error: Error) => void;
  #socket: Socket;
  #arrived: Buffer = Buffer.alloc(0);
  #wake: () => void = () => {};
  readonly #onData = (bytes: Buffer): void => {
    this.#arrived = Buffer.concat([this.#arrived, bytes]);
    if (this.#arrived.length > MOST_EARLY_BYTES) this.#failed(new Error("unexpected data from the server"));
    this.#wake();
  };

  /** `failed` is called when far more comes than was asked for, and with what goes wrong with TLS. */
  constructor(socket: Socket, failed: (error: Error) => void) {
    this.#socket = socket;
    this.#failed = failed;
    socket.on("data", this.#onData);
  }

  async run(exportName: string, secured: Secured | null): Promise<Export> {
    const greeting = await this.#take(18);
    const isServer = same(greeting, 0, Magic.init) && same(greeting, 8, Magic.option);
    if (!isServer) throw new Error("not an NBD server, or one with only the old handshake (before 2011)");
    const flags = greeting.readUInt16BE(16);
    if (!(flags & Handshake.fixedNewstyle))
      throw new Error("the server is too old: it lacks the fixed newstyle handshake");
    const answer = Buffer.alloc(Bytes.clientFlags);
    answer.writeUInt32BE(Handshake.fixedNewstyle | (flags & Handshake.noZeroes));
    this.#socket.write(answer);
    if (secured) await this.#startTls(secured);
    const name = Buffer.from(exportName);
    const data = Buffer.alloc(4 + name.length + 4);
    data.writeUInt32BE(name.length);
    name.copy(data, 4);
    data.writeUInt16BE(1, 4 + name.length);
    data.writeUInt16BE(Info.blockSize, 6 + name.length);
    const { type, text, infos } = await this.#option(Option.info, data);
    if (type !== OptionReply.ack) throw new Error(refusalOf(type, text, exportName));
    this.#socket.write(optionHeader(Option.abort, 0));
    return readInfos(infos);
  }

  async #startTls({ tls, credentials }: Secured): Promise<void> {
    const { type, text } = await this.#option(Option.startTls, Buffer.alloc(0));
    if (type !== OptionReply.ack) throw new Error(`the server has no TLS${text === "" ? "" : `: ${text}`}`);
    // Somebody between us and the server may have said it, and it would count as said by the server.
    if (this.#arrived.length > 0) throw new Error("malformed reply to an option");
    this.#socket.off("data", this.#onData);
    this.#socket = await startTls(this.#socket, tls, credentials, this.#failed);
    this.#socket.on("data", this.#onData);
  }

  /** Asks for an option and gathers what comes back: information, then the reply that ends it. */
  async #option(option: number, data: Buffer): Promise<{ type: number; text: string; infos: Buffer[] }> {
    this.#socket.write(Buffer.concat([optionHeader(option, data.length), data]));
    const infos: Buffer[] = [];
    for (let replies = 0; replies < MOST_REPLIES; replies++) {
      const reply = await this.#take(Bytes.optionReplyHeader);
      const length = reply.readUInt32BE(16);
      if (!same(reply, 0, Magic.optionReply) || reply.readUInt32BE(8) !== option || length > LONGEST_REPLY) {
        throw new Error("malformed reply to an option");
      }
      const type = reply.readUInt32BE(12);
      const body = length > 0 ? await this.#take(length) : Buffer.alloc(0);
      if (type === OptionReply.ack || type >= OptionReply.errors)
        return { type, text: body.toString(), infos };
      if (type === OptionReply.info) infos.push(body);
    }
    throw new Error("the server's reply to an option does not end");
  }

  async #take(count: number): Promise<Buffer> {
    while (this.#arrived.length < count)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    const bytes = this.#arrived.subarray(0, count);
    this.#arrived = this.#arrived.subarray(count);
    return bytes;
  }
}

function optionHeader(option: number, length: number): Buffer {
  const header = Buffer.alloc(Bytes.optionHeader);
  header.writeUInt32BE(Magic.option.high, 0);
  header.writeUInt32BE(Magic.option.low, 4);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(length, 12);
  return header;
}

function same(bytes: Buffer, at: number, { high, low }: { high: number; low: number }): boolean {
  return bytes.readUInt32BE(at) === high && bytes.readUInt32BE(at + 4) === low;
}

function refusalOf(type: number, text: string, exportName: string): string {
  const why = text === "" ? "" : `: ${text.slice(0, 256)}`;
  if (type === OptionReply.unknown)
    return `the server has no export "${exportName}"${why}; \`nbdinfo --list\` shows them`;
  if (type === OptionReply.tlsRequired)
    return "the server requires TLS: nbds://HOST/EXPORT?tls-certificates=DIRECTORY";
  if (type === OptionReply.unsupported) return "the server is too old: it does not support NBD_OPT_INFO";
  return `the server refuses the export "${exportName}" (error ${type - OptionReply.errors})${why}`;
}

function readInfos(infos: readonly Buffer[]): Export {
  let exported: { size: number; flags: number } | null = null;
  // What the protocol tells clients to assume of a server that does not say.
  let blocks = { minimumBlock: 512, maximumPayload: 32 << 20 };
  for (const info of infos) {
    const type = info.length >= 2 ? info.readUInt16BE(0) : -1;
    if (type === Info.export && info.length === 12) {
      const size = info.readUInt32BE(2) * TWO_TO_32 + info.readUInt32BE(6);
      if (!Number.isSafeInteger(size)) throw new Error(tooLarge(info.readBigUInt64BE(2)));
      exported = { size, flags: info.readUInt16BE(10) };
    } else if (type === Info.blockSize && info.length === 14) blocks = readBlocks(info);
  }
  if (exported === null || !(exported.flags & Transmission.hasFlags))
    throw new Error("the server did not send the size of the export");
  return { ...exported, ...blocks };
}

function readBlocks(info: Buffer): Pick<Export, "minimumBlock" | "maximumPayload"> {
  const [minimumBlock, preferredBlock, maximumPayload] = [2, 6, 10].map((at) => info.readUInt32BE(at));
  const power = (n: number): boolean => n > 0 && (n & (n - 1)) === 0;
  const sane =
    power(minimumBlock) &&
    power(preferredBlock) &&
    preferredBlock >= minimumBlock &&
    maximumPayload >= minimumBlock;
  if (!sane) {
    throw new Error(
      `the server's block sizes are inconsistent: minimum ${minimumBlock}, preferred ${preferredBlock}, maximum ${maximumPayload}`,
    );
  }
  return { minimumBlock, maximumPayload };
}
