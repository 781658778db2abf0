/** What a vhost-user server can do to a client that believes it. */

import koffi from "koffi";
import { readNonBlocking, writeNonBlocking } from "../../host/platform/libc.js";
import { Request } from "../../host/storage/vhost-user/abi.js";
import { Control } from "../../host/storage/vhost-user/area.js";
import type { Asked, FakeServer, Script } from "./vhost-server.js";

const fcntl = koffi.load("libc.so.6").func("int fcntl(int fd, int command, long argument)");
const F_SETFL = 4;
const O_NONBLOCK = 0x800;

/** What it costs: the request, the whole disk, another connection, or one of the latter two, as it happens. */
export interface Lie {
  readonly costs: "request" | "disk" | "connection" | "disk or connection";
  readonly says: RegExp;
  /** It shows when there is no answer for long. */
  readonly waits?: true;
  readonly tell: (asked: Asked, server: FakeServer, random: () => number) => void;
}

const full = ({ to }: Asked): number => 1 + to.reduce((sum, { length }) => sum + length, 0);

export const LIES: Readonly<Record<string, Lie>> = {
  "a used index that jumps": {
    costs: "disk",
    says: /a used index that is [0-9]+ ahead, with [0-9]+ requests in flight/,
    tell: ({ queue }, _, random) => queue.publish(queue.answered + 300 + (random() % 60_000)),
  },
  "a used index that goes back": {
    costs: "disk or connection",
    says: /a used index that is [0-9]+ ahead|no answer to the requests/,
    waits: true,
    tell: ({ queue }) => queue.publish(queue.answered - 1),
  },
  "an answer to what is no request": {
    costs: "disk",
    says: /an answer to descriptor [0-9]+, which has no request in flight/,
    tell: ({ queue }, _, random) => queue.answer(random() | 0x400, 1),
  },
  "two answers to one request": {
    costs: "disk",
    says: /a used index that is|an answer to descriptor/,
    tell(asked, server) {
      server.answer(asked);
      asked.queue.answer(asked.head, 1);
    },
  },
  "no status": {
    costs: "request",
    says: /the server has written no status/,
    tell: (asked) => asked.queue.answer(asked.head, full(asked)),
  },
  "a status that does not exist": {
    costs: "request",
    says: /the server has answered with status 77/,
    tell(asked) {
      asked.status[0] = 77;
      asked.queue.answer(asked.head, full(asked));
    },
  },
  "an error": { costs: "request", says: /EIO$/, tell: (asked, server) => server.answer(asked, 1) },
  "not supported": { costs: "request", says: /ENOTSUP$/, tell: (asked, server) => server.answer(asked, 2) },
  "fewer bytes than were read": {
    costs: "request",
    says: /the server has written 1 bytes, not [0-9]+/,
    tell(asked, server) {
      if (asked.type !== Request.in) return server.answer(asked, 1);
      asked.status[0] = 0;
      asked.queue.answer(asked.head, 1);
    },
  },
  "no answer": {
    costs: "connection",
    says: /no answer to the requests on a virtqueue for/,
    waits: true,
    tell: () => {},
  },
  death: {
    costs: "connection",
    says: /the server has closed its connection/,
    tell: (_, server) => server.close(),
  },
  "rubbish on the socket": {
    costs: "disk",
    says: /what is not a vhost-user message/,
    tell: (_, server) => server.rubbish(Buffer.alloc(64, 0xee)),
  },
  "a message without end": {
    costs: "disk",
    says: /what is not a vhost-user message/,
    tell: (_, server) => server.raw(24, 0x7fff_fff9, Buffer.alloc(5000)),
  },
  "a reply to nothing": {
    costs: "disk",
    says: /a message that was not asked for \(24\)/,
    tell: (_, server) => server.reply(24, Buffer.alloc(72)),
  },
  "a disk without end": {
    costs: "disk",
    says: /less than 8 PiB/,
    tell(asked, server) {
      server.resize(2 ** 62);
      server.answer(asked);
    },
  },
  "a call descriptor that does not wait, and is read by others": {
    costs: "disk or connection",
    says: /changed the event descriptor|no answer to the requests/,
    waits: true,
    tell({ queue }) {
      queue.call();
      fcntl(queue.callFd, F_SETFL, O_NONBLOCK);
      readNonBlocking(queue.callFd, new Uint8Array(8));
    },
  },
};

/** What a server can do that costs nothing but its own confusion: it overwrites what it is only to read. */
export function scribble(server: FakeServer, random: () => number): void {
  for (let i = 0; i < 2000; i++) {
    const at = random() % (Control.tables + 4096);
    // Its own part is for the lies.
    if (at >= Control.used && at < Control.records) continue;
    server.bytes[at] = random();
  }
}

/** Fills a kick descriptor, and has whoever writes to it wait. */
export function blockKicks({ queue }: Asked): void {
  fcntl(queue.kickFd, F_SETFL, O_NONBLOCK);
  writeNonBlocking(queue.kickFd, new Uint8Array(new BigUint64Array([2n ** 64n - 2n]).buffer));
  fcntl(queue.kickFd, F_SETFL, 0);
}

/** Honest at most, but late, out of order, and with a lie now and then. */
export function capricious(next: () => number, blocks = false): NonNullable<Script["serves"]> {
  const late: (() => void)[] = [];
  const lies = Object.values(LIES);
  const rate = next() % 3;
  return (asked, server: FakeServer) => {
    if (next() % 16 === 0) scribble(server, next);
    if (blocks && next() % 16 === 0) blockKicks(asked);
    if (rate > 0 && next() % 200 < rate) lies[next() % lies.length].tell(asked, server, next);
    else if (next() % 4 === 0) late.push(() => !server.closed && server.answer(asked));
    else server.answer(asked, next() % 50 === 0 ? next() % 256 : 0);
    while (late.length > next() % 16) late.splice(next() % late.length, 1)[0]();
    return true;
  };
}
