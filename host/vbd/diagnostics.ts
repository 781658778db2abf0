/** The diagnostics of xbdback(4), word for word, and what all lines about a guest have in common. */

/** "xbd backend: attach device %s (size %d) for domain %d": size in bytes. */
export function attachMessage(path: string, size: number, domid: number): string {
  return `xbd backend: attach device ${path} (size ${size}) for domain ${domid}`;
}

/** "xbd backend 0x%x for domain %d using event channel %d, protocol %s": the virtual-device number first. */
export function connectMessage(devid: number, domid: number, port: number, protocol: string): string {
  return `xbd backend 0x${devid.toString(16)} for domain ${domid} using event channel ${port}, protocol ${protocol}`;
}

/** "xbdback %s: can't VOP_OPEN device 0x%x: %d": the xenbus node first; 16 (EBUSY) when mounted or in use. */
export function openMessage(node: string, device: number, errno: number): string {
  return `xbdback ${node}: can't VOP_OPEN device 0x${device.toString(16)}: ${errno}`;
}

export function detachMessage(path: string, domid: number): string {
  return `xbd backend: detach device ${path} for domain ${domid}`;
}

/** Sizes in bytes. */
export function resizeMessage(before: number, after: number): string {
  return `the disk has ${after > before ? "grown" : "shrunk"} from ${before} to ${after} bytes`;
}

const QUOTED_LENGTH = 64;

/** Text without anything that moves a terminal's cursor or breaks a log's lines. */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) as number).toString(16)}}`,
  );
}

/** A value that a guest wrote, as it may stand in a message: in quotes, short, harmless. */
export function quote(value: string): string {
  const shown = value.length > QUOTED_LENGTH ? `${value.slice(0, QUOTED_LENGTH)}…` : value;
  return printable(JSON.stringify(shown));
}

const INTERVAL_MS = 1000;

/** What waits of one kind: the last line, and how many there were. */
interface Held {
  line: string;
  count: number;
  readonly timer: NodeJS.Timeout;
}

/** `suppressed`: lines of this kind since the last one that this one stands for, too. */
type PacedSink = (line: string, kind: string, suppressed: number) => void;

/** Lines that a guest can cause: at most one a second of each kind. The last one of a burst is always said. */
export class PacedLog {
  readonly #log: PacedSink;
  readonly #held = new Map<string, Held>();

  constructor(log: PacedSink) {
    this.#log = log;
  }

  /** There must be few kinds, and none of a guest's making. */
  say(kind: string, line: string): void {
    const held = this.#held.get(kind);
    if (held) {
      held.line = line;
      held.count++;
      return;
    }
    this.#write(kind, line, 0);
    this.#hold(kind, line);
  }

  #hold(kind: string, line: string): void {
    const timer = setTimeout(() => this.#release(kind, true), INTERVAL_MS);
    timer.unref();
    this.#held.set(kind, { line, count: 0, timer });
  }

  #write(kind: string, line: string, suppressed: number): void {
    this.#log(printable(line), kind, suppressed);
  }

  /** Says now what waits. */
  flush(): void {
    for (const kind of [...this.#held.keys()]) this.#release(kind, false);
  }

  #release(kind: string, goOn: boolean): void {
    const { line, count, timer } = this.#held.get(kind) as Held;
    clearTimeout(timer);
    this.#held.delete(kind);
    if (count === 0) return;
    const last = count === 1 ? line : `${line} (${count - 1} similar messages suppressed)`;
    this.#write(kind, last, count - 1);
    // The next one waits its second again.
    if (goOn) this.#hold(kind, line);
  }
}
