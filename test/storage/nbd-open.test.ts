/** Asking an NBD server what it has, before anything else: what is said of it, and everything that a server can do wrong. */
import assert from "node:assert/strict";
import { closeSync, constants, openSync } from "node:fs";
import { constants as os } from "node:os";
import { test } from "node:test";
import { makeFifo } from "../../host/platform/libc.js";
import { Place } from "../../host/storage/calls/place.js";
import { type NbdOptions, openNbd } from "../../host/storage/helper/nbd.js";
import { askExport, unanswered, unreachable } from "../../host/storage/nbd/negotiate.js";
import { parseNbdUri } from "../../host/storage/nbd/uri.js";
import { DeviceError } from "../../host/storage/open.js";
import { u16, u32, u64 } from "../nbd/raw-client.js";
import { absent } from "../support/programs.js";
import { directory, LIMIT } from "./helpers.js";
import { ALL, honest, type Offer, type Peer, READ_ONLY, type Script, SEND, scripted } from "./nbd-server.js";

const MIB = 1 << 20;
const READ_WRITE: NbdOptions = { readOnly: false, warn: () => {} };

const serve =
  (offer: Offer): Script =>
  async (peer) => {
    await peer.handshake(offer);
    await honest(peer, Buffer.alloc(offer.size));
  };

const HELPED = { ...LIMIT, skip: absent("qemu-storage-daemon") };

test("what a guest should know is said", HELPED, async (t) => {
  const lines: string[] = [];
  const options = { readOnly: false, warn: (line: string) => void lines.push(line) };
  const offers: Offer[] = [
    { size: MIB + 700, flags: 1 | SEND.trim },
    { size: MIB, blocks: [4096, 4096, MIB] },
  ];
  for (const offer of offers) await (await openNbd((await scripted(t, serve(offer))).uri, options)).close();
  assert.equal(lines.length, 3);
  assert.match(lines[0], /are not a multiple of the sector size 512; the guest does not see the last 188/);
  assert.match(lines[1], /the server has no flush/);
  assert.match(lines[2], /the server has sectors of 4096 bytes; not every guest can boot/);
});

test("the export's name is the URI's", HELPED, async (t) => {
  let name = "";
  const server = await scripted(t, async (peer) => {
    await peer.handshake({ size: MIB });
    name = peer.exportName;
    await honest(peer, Buffer.alloc(MIB));
  });
  await (await openNbd(`nbd+unix:///d%C3%BCnn/1?socket=${server.path}`, READ_WRITE)).close();
  assert.equal(name, "dünn/1");
});

/** Answers every option up to NBD_OPT_INFO as it should be, and that with `say`. */
const atInfo =
  (say: (peer: Peer) => void): Script =>
  async (peer) => {
    peer.greet();
    await peer.take(4);
    for (;;) {
      const { option } = await peer.option();
      if (option === 6) say(peer);
      else peer.answer(option, 1);
    }
  };
const info = (size: bigint, flags: number): Uint8Array => Buffer.concat([u16(0), u64(size), u16(flags)]);
const say =
  (text: string): Script =>
  async (peer) =>
    peer.say(Buffer.from(text));

const WRONG: Record<string, [Script, RegExp]> = {
  "another protocol": [say("HTTP/1.1 400 Bad Request\r\n\r\n"), /not an NBD server/],
  "the old style": [say("NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0"), /or one with only the old handshake/],
  "no fixed newstyle": [async (peer) => peer.greet(0), /lacks the fixed newstyle/],
  "the end in the handshake": [
    async (peer) => void peer.socket.end(),
    /closed the connection in the handshake/,
  ],
  "silence amid the greeting": [say("NBDMAGIC"), /did not answer within 0\.3 s/],
  silence: [async () => {}, /did not answer within 0\.3 s/],
  "silence after the greeting": [async (peer) => peer.greet(), /did not answer within 0\.3 s/],
  "no such export": [
    atInfo((peer) => peer.answer(6, 0x80000006, Buffer.from("nothing here"))),
    /has no export "": nothing here; `nbdinfo --list` shows them/,
  ],
  "TLS only": [atInfo((peer) => peer.answer(6, 0x80000005)), /requires TLS/],
  "no NBD_OPT_INFO": [atInfo((peer) => peer.answer(6, 0x80000001)), /does not support NBD_OPT_INFO/],
  "a refusal by policy": [
    atInfo((peer) => peer.answer(6, 0x80000002, Buffer.from("not you"))),
    /refuses the export "" \(error 2\): not you/,
  ],
  "no size": [atInfo((peer) => peer.answer(6, 1)), /did not send the size/],
  "a size beyond all": [
    atInfo((peer) => {
      peer.answer(6, 3, info(2n ** 63n, ALL));
      peer.answer(6, 1);
    }),
    /its disk has 9223372036854775808 bytes, and less than 8 PiB \(9007199254740992\) are supported/,
  ],
  "a reply to another option": [atInfo((peer) => peer.answer(7, 1)), /malformed reply to an option/],
  "rubbish for a reply": [atInfo((peer) => peer.say(Buffer.alloc(64, 7))), /malformed reply to an option/],
  "a reply of 2 GiB": [
    atInfo((peer) => peer.say(u64(0x3e889045565a9n), u32(6), u32(3), u32(2 ** 31))),
    /malformed reply to an option/,
  ],
  "replies without end": [
    atInfo((peer) => {
      for (let i = 0; i < 100; i++) peer.answer(6, 3, info(1n, ALL));
    }),
    /reply to an option does not end/,
  ],
  "a flood": [
    async (peer) => peer.say(Buffer.from("NBDMAGICIHAVEOPT"), u16(3), Buffer.alloc(4 * MIB)),
    /malformed|unexpected/,
  ],
  "block sizes that are no powers of two": [
    serve({ size: MIB, blocks: [513, 4096, MIB] }),
    /are inconsistent/,
  ],
  "a maximum below the minimum": [serve({ size: MIB, blocks: [4096, 4096, 512] }), /are inconsistent/],
  "blocks larger than a sector can be": [
    serve({ size: MIB, blocks: [65536, 65536, MIB] }),
    /nbdkit --filter=blocksize/,
  ],
  "no room for a sector": [serve({ size: MIB, blocks: [1, 64, 256] }), /less than a sector/],
  "an empty export": [serve({ size: 0 }), /less than a sector/],
  "a server that only reads": [
    serve({ size: MIB, flags: ALL | READ_ONLY }),
    /read-only; attach it read-only/,
  ],
};

for (const [what, [script, pattern]] of Object.entries(WRONG)) {
  test(`refused: ${what}`, LIMIT, async (t) => {
    const { uri } = await scripted(t, script);
    const patience = { dialMs: what.startsWith("silence") ? 300 : 10_000 };
    await assert.rejects(openNbd(uri, { ...READ_WRITE, ...patience }), (error) => {
      assert.ok(error instanceof DeviceError);
      assert.match(error.message, pattern);
      assert.ok(error.message.startsWith(`${uri}: `), error.message);
      return true;
    });
  });
}

test("refused: what systemd's filter keeps away, which the error names", () => {
  const address = { socket: null, host: "192.0.2.1", port: 10809, exportName: "" };
  const remedy = "let the unit's IPAddressAllow= name it: see Remote storage in xbdback(8)";
  for (const code of ["EPERM", "EACCES"])
    assert.equal(
      unreachable(address, { code } as NodeJS.ErrnoException).message,
      `not permitted to reach 192.0.2.1:10809; ${remedy}`,
    );
  const before = process.env["INVOCATION_ID"];
  const silent = (): string => unanswered(address, 10_000, true).message;
  process.env["INVOCATION_ID"] = "as systemd sets it";
  assert.equal(silent(), `no answer from 192.0.2.1:10809 within 10 s; start the NBD server, or ${remedy}`);
  delete process.env["INVOCATION_ID"];
  assert.equal(silent(), "no answer from 192.0.2.1:10809 within 10 s; start the NBD server");
  if (before !== undefined) process.env["INVOCATION_ID"] = before;
  // What a socket's owner denies is not systemd's doing.
  const local = unreachable({ ...address, socket: "/run/nbd.sock" }, {
    code: "EACCES",
  } as NodeJS.ErrnoException);
  assert.match(local.message, /^permission denied for \/run\/nbd\.sock; give this user access/);
});

test("refused: nobody there", LIMIT, async (t) => {
  const { path } = await scripted(t, async () => {});
  await assert.rejects(
    openNbd(`nbd+unix:///?socket=${path}x`, READ_WRITE),
    /no socket at .*start the NBD server/,
  );
  await assert.rejects(openNbd("nbd://127.0.0.1:1/", READ_WRITE), /connection refused by 127\.0\.0\.1:1/);
  await assert.rejects(
    openNbd("nbd://host.invalid/", READ_WRITE),
    /host\.invalid:10809 cannot be reached: E|no name server answers for host\.invalid/,
  );
  await assert.rejects(openNbd("nbds://localhost/", READ_WRITE), { errno: os.errno.EINVAL });
});

test("a socket on a file system that does not answer is not connected to", LIMIT, async (t) => {
  const path = `${directory(t)}/fifo`;
  makeFifo(path);
  const [answered] = await Promise.allSettled([askExport(parseNbdUri(`nbd+unix:///?socket=${path}`), 1000)]);
  assert.match(String(answered.status === "rejected" && answered.reason), /cannot be reached|refused/);
  // As a look at a server that hangs: what follows at this path waits.
  const hanging = Place.of(path).open(constants.O_RDONLY);
  await assert.rejects(
    askExport(parseNbdUri(`nbd+unix:///?socket=${path}`), 100),
    /fifo does not answer; check/,
  );
  closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
  closeSync(await hanging);
});
