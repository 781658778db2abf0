/** Fixed newstyle negotiation: from the greeting to the choice of the export. */

import { Bytes, Handshake, Info, Magic, Option, OptionReply } from "../../nbd/protocol.js";
import { blockSizes, type Export, transmissionFlags } from "./export.js";
import type { Intake } from "./intake.js";
import * as options from "./options.js";
import type { Outbox } from "./outbox.js";

/** An export's name may have 4096 bytes; lists of queries are longer, none is anywhere near this. */
const LONGEST_OPTION = 65536;

/** What a negotiation came to. */
export interface Agreement {
  /** Structured replies. */
  readonly structured: boolean;
}

/** Next step after an option: go on haggling, start transmission, or part. */
type Step = "haggle" | "transmit" | "end";

export class Negotiation {
  readonly #export: Export;
  readonly #intake: Intake;
  readonly #outbox: Outbox;
  readonly #done: (agreement: Agreement | null) => void;
  readonly #header = new Uint8Array(Bytes.optionHeader);
  readonly #view = new DataView(this.#header.buffer);
  #padded = true;
  #structured = false;
  #replies: Uint8Array[] = [];

  /** `done` is called once: with null when the connection is of no use any more. */
  constructor(exported: Export, intake: Intake, outbox: Outbox, done: (agreement: Agreement | null) => void) {
    this.#export = exported;
    this.#intake = intake;
    this.#outbox = outbox;
    this.#done = done;
  }

  start(): void {
    this.#outbox.send({ bytes: options.greeting(), sent: () => {} });
    this.#intake.take(this.#header.subarray(0, Bytes.clientFlags), () => this.#clientFlags());
  }

  #clientFlags(): void {
    const flags = this.#view.getUint32(0);
    this.#padded = (flags & Handshake.noZeroes) === 0;
    if (flags & ~(Handshake.fixedNewstyle | Handshake.noZeroes)) this.#done(null);
    else this.#nextOption();
  }

  #nextOption(): void {
    this.#intake.take(this.#header, () => {
      const view = this.#view;
      if (view.getUint32(0) !== Magic.option.high || view.getUint32(4) !== Magic.option.low) {
        return this.#done(null);
      }
      const option = view.getUint32(8);
      const length = view.getUint32(12);
      if (length > LONGEST_OPTION) return this.#done(null);
      const data = new Uint8Array(length);
      this.#intake.take(data, () => this.#answer(option, data));
    });
  }

  /** The next option is not looked at before the client took this one's replies: a flood of options fills nothing. */
  #answer(option: number, data: Uint8Array): void {
    const step = this.#option(option, data);
    const bytes = Buffer.concat(this.#replies);
    this.#replies = [];
    if (bytes.byteLength === 0) {
      this.#done(null);
      return;
    }
    this.#intake.hold();
    const sent = () => {
      if (step === "haggle") this.#nextOption();
      else this.#done(step === "transmit" ? { structured: this.#structured } : null);
      this.#intake.release();
    };
    this.#outbox.send({ bytes, sent });
  }

  #option(option: number, data: Uint8Array): Step {
    switch (option) {
      case Option.exportName:
        return this.#exportName(data);
      case Option.abort:
        this.#reply(option, OptionReply.ack);
        return "end";
      case Option.list:
        if (this.#refuseData(option, data)) return "haggle";
        this.#reply(option, OptionReply.server, options.listEntry(this.#export.description));
        break;
      case Option.structuredReply:
        if (this.#refuseData(option, data)) return "haggle";
        this.#structured = true;
        break;
      case Option.info:
      case Option.go:
        return this.#info(option, data);
      case Option.listMetaContext:
      case Option.setMetaContext:
        return this.#metaContext(option, data);
      default:
        this.#reply(option, OptionReply.unsupported);
        return "haggle";
    }
    this.#reply(option, OptionReply.ack);
    return "haggle";
  }

  /** This option cannot be refused other than by parting. */
  #exportName(name: Uint8Array): Step {
    if (name.byteLength > 0) return "end";
    const { disk } = this.#export;
    const flags = transmissionFlags(disk, this.#structured);
    this.#replies.push(options.exportNameReply(disk.size, flags, this.#padded));
    return "transmit";
  }

  #info(option: number, data: Uint8Array): Step {
    const request = options.parseInfoRequest(data);
    if (!request) return this.#refuse(option, OptionReply.invalid, "the lengths in the option do not add up");
    if (request.name !== "") return this.#refuseName(option, request.name);
    const { disk, description } = this.#export;
    const flags = transmissionFlags(disk, this.#structured);
    this.#reply(option, OptionReply.info, options.infoExport(disk.size, flags));
    this.#reply(option, OptionReply.info, options.infoBlockSize(blockSizes(disk)));
    if (request.wanted.has(Info.name)) this.#reply(option, OptionReply.info, options.infoText(Info.name, ""));
    if (request.wanted.has(Info.description)) {
      this.#reply(option, OptionReply.info, options.infoText(Info.description, description));
    }
    this.#reply(option, OptionReply.ack);
    return option === Option.go ? "transmit" : "haggle";
  }

  /** There are no metadata contexts: blkif has no way to ask which blocks are allocated. */
  #metaContext(option: number, data: Uint8Array): Step {
    const name = options.parseMetaContext(data);
    if (name === null) {
      return this.#refuse(option, OptionReply.invalid, "the lengths in the option do not add up");
    }
    if (!this.#structured) {
      return this.#refuse(option, OptionReply.invalid, "negotiate structured replies first");
    }
    if (name !== "") return this.#refuseName(option, name);
    this.#reply(option, OptionReply.ack);
    return "haggle";
  }

  #refuseData(option: number, data: Uint8Array): boolean {
    if (data.byteLength === 0) return false;
    this.#refuse(option, OptionReply.invalid, "this option has no data");
    return true;
  }

  #refuseName(option: number, name: string): Step {
    const shown = JSON.stringify(name.slice(0, 64));
    return this.#refuse(option, OptionReply.unknown, `no export ${shown} here: use the default export ""`);
  }

  #refuse(option: number, type: number, message: string): Step {
    this.#reply(option, type, Buffer.from(message));
    return "haggle";
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    this.#replies.push(options.optionReply(option, type, data));
  }
}
