/** The control socket, with clients that behave and others. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ControlHandler, ControlServer, control } from "../../host/daemon/control.js";
import { controlSocket, serve } from "../../host/daemon/serve.js";
import { joinGuest } from "../../host/guest/process.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { addVbd } from "../../host/toolstack/vbd.js";
import { DEFAULT_FEATURES } from "../../host/vbd/backend-keys.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { openFiles, until } from "../vbd/harness.js";

const LIMIT = { timeout: 120_000 };
const directory = mkdtempSync(join(tmpdir(), "control-"));
const path = join(directory, "control.sock");
let server: ControlServer;
let handler: ControlHandler = () => ({});

before(async () => {
  server = await ControlServer.listen(path, (request, signal) => handler(request, signal));
});
after(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

/** Sends bytes and gathers what comes until the server closes, or as many lines as are wanted. */
function talk(text: string | Buffer, wanted = Number.POSITIVE_INFINITY): Promise<object[]> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    let answer = "";
    const finish = (): void => {
      socket.destroy();
      resolve(
        answer
          .split("\n")
          .slice(0, -1)
          .map((line) => JSON.parse(line)),
      );
    };
    socket.on("data", (chunk) => {
      answer += chunk;
      if (answer.split("\n").length > wanted) finish();
    });
    socket.on("error", reject);
    socket.on("end", finish);
    socket.write(text);
  });
}

test("what is no socket stays where it is", LIMIT, async () => {
  const file = join(directory, "file");
  writeFileSync(file, "kept");
  const listens = ControlServer.listen(file, handler).then((mistaken) => mistaken.close());
  await assert.rejects(listens, { code: "EADDRINUSE" });
  assert.equal(readFileSync(file, "utf8"), "kept");
});

test("a command and its answer; the socket is its owner's alone", LIMIT, async () => {
  handler = ({ command, ...rest }) => ({ heard: command, rest });
  assert.deepEqual(await control(path, { command: "list", of: 1 }), {
    ok: true,
    heard: "list",
    rest: { of: 1 },
  });
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test("a handler that throws, now or later, refuses in its own words", LIMIT, async () => {
  handler = () => {
    throw new Error("no");
  };
  await assert.rejects(control(path, { command: "x" }), { message: "no" });
  handler = () => Promise.reject(new Error("not now"));
  await assert.rejects(control(path, { command: "x" }), { message: "not now" });
});

test("what is no request gets an answer, and the next one its own", LIMIT, async () => {
  handler = () => ({ fine: true });
  const lines = [
    "",
    "null",
    "7",
    "[]",
    '"list"',
    "{}",
    '{"command": 5}',
    "{",
    "\u0000\u001b[2J",
    '{"command":"a"}',
  ];
  const answers = (await talk(`${lines.join("\n")}\n`, lines.length)) as { ok: boolean; error?: string }[];
  assert.equal(answers.length, lines.length);
  for (const { ok, error } of answers.slice(0, -1)) {
    assert.equal(ok, false);
    assert.ok(error && !error.includes("\n"), error);
  }
  assert.deepEqual(answers.at(-1), { ok: true, fine: true });
});

test("bytes that are no text, and requests in pieces", LIMIT, async () => {
  const [garbage] = (await talk(Buffer.concat([Buffer.alloc(1000, 0xff), Buffer.from("\n")]), 1)) as {
    ok: boolean;
  }[];
  assert.equal(garbage.ok, false);
  const socket = createConnection(path);
  const answer = new Promise((resolve) => socket.once("data", (chunk) => resolve(String(chunk))));
  for (const byte of '{"command":"\u00fc"}\n') {
    socket.write(byte);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(await answer, '{"ok":true,"fine":true}\n');
  socket.destroy();
});

test("a line without end is cut off", LIMIT, async () => {
  const answers = (await talk("x".repeat(200_000))) as { ok: boolean; error: string }[];
  assert.deepEqual(answers, [{ ok: false, error: "a line is longer than 65536 characters" }]);
});

test("a client that ends its side gets its answer; many lines get theirs in order", LIMIT, async () => {
  let count = 0;
  handler = async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return { number: count++ };
  };
  const socket = createConnection({ path, allowHalfOpen: true });
  let answer = "";
  socket.on("data", (chunk) => {
    answer += chunk;
  });
  socket.end('{"command":"a"}\n'.repeat(50));
  await new Promise((resolve) => socket.on("end", resolve));
  const numbers = answer
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).number);
  assert.deepEqual(
    numbers,
    Array.from({ length: 50 }, (_, i) => i),
  );
});

test("a client that never reads is not read either", LIMIT, async () => {
  let answered = 0;
  handler = ({ command }) => {
    if (command === "other") return {};
    answered++;
    return { much: "x".repeat(100_000) };
  };
  const socket = createConnection(path);
  socket.pause();
  for (let i = 0; i < 100; i++) socket.write('{"command":"a"}\n'.repeat(10));
  await until("the server has begun", () => answered > 1);
  // It has its turns meanwhile, as others have theirs.
  for (let i = 0; i < 50; i++) await control(path, { command: "other" });
  assert.ok(answered < 100, `${answered} answers for nobody`);
  socket.destroy();
});

test("many clients at once, and none of them left", LIMIT, async () => {
  handler = () => ({ fine: true });
  const files = openFiles();
  const answers = await Promise.all(Array.from({ length: 200 }, () => control(path, { command: "list" })));
  assert.equal(answers.length, 200);
  const silent: Socket[] = Array.from({ length: 50 }, () => createConnection(path));
  await control(path, { command: "list" });
  for (const socket of silent) socket.destroy();
  await until("all are gone", () => openFiles() <= files);
});

test("nobody there, somebody else there, and one that hangs up", LIMIT, async () => {
  await assert.rejects(control(`${path}.none`, { command: "x" }), {
    message: `no daemon answers at ${path}.none`,
    reason: "unavailable",
    code: "ENOENT",
  });
  await assert.rejects(
    ControlServer.listen(path, () => ({})),
    /^Error: another daemon answers at .*: stop it first$/,
  );
  const other = await ControlServer.listen(`${path}.2`, () => new Promise<object>(() => {}));
  const hanging = control(`${path}.2`, { command: "x" });
  hanging.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 20));
  await other.close();
  await assert.rejects(hanging, /closed the connection|no daemon answers/);
  assert.equal(existsSync(`${path}.2`), false);
});

test("a daemon's socket: why a disk waits, and a disk that grows", { timeout: 120_000 }, async () => {
  const host = await LoopbackHost.start();
  const platform = { kind: "loopback", directory: host.directory, domid: 0 } as const;
  const daemon = await serve({ platform, kind: "vbd", features: DEFAULT_FEATURES, log: () => {} }, () => {});
  const socket = controlSocket(platform, "vbd");
  const first = async () => (await control<{ vbds: VbdStatus[] }>(socket, { command: "list" })).vbds[0];
  const image = join(host.directory, "disk.img");
  writeFileSync(image, new Uint8Array(1 << 20));
  try {
    await host.createGuest(1, 16 << 20);
    const spec = { backendDomid: 0, domid: 1, devid: 51712, path: image, mode: "w", dev: "xvda" };
    await addVbd(host.xenstore, spec);
    // Keys are read when they are asked for; what is waited for is the last look's, which may be on its way.
    await until("it waits", async () => (await first())?.waitsFor?.startsWith("the frontend") === true);
    const { name, state, online, hotplugStatus, waitsFor, error } = await first();
    assert.deepEqual(
      { name, state, online, hotplugStatus, waitsFor, error },
      {
        name: "xbdback1i51712",
        state: 2,
        online: true,
        hotplugStatus: "connected",
        waitsFor: "the frontend (state 1, Initialising)",
        error: null,
      },
    );
    const resize = { command: "resize", vbd: "xbdback1i51712" };
    await assert.rejects(control(socket, resize), /is not connected; its size is read when it connects/);
    await assert.rejects(control(socket, { command: "resize" }), /no such vbd: ""/);
    const { disk, stop } = await joinGuest(host.directory, 1, 51712, {});
    truncateSync(image, 3 << 20);
    assert.deepEqual(await control(socket, resize), { ok: true, size: 3 << 20 });
    await until("the guest knows", () => disk.size === 3 << 20);
    await disk.write((3 << 20) - 4096, new Uint8Array(4096).fill(1));
    assert.equal((await first()).waitsFor, null);
    await stop();
  } finally {
    await daemon.stop();
    await host.close();
  }
});

test(
  "a daemon's socket: list, an unknown command; a second daemon is refused and leaves nothing open",
  LIMIT,
  async () => {
    const host = await LoopbackHost.start();
    try {
      const platform = { kind: "loopback", directory: host.directory, domid: 0 } as const;
      const options = { platform, kind: "vbd", features: DEFAULT_FEATURES, log: () => {} };
      const before = openFiles();
      const daemon = await serve(options, () => {});
      const socket = controlSocket(platform, "vbd");
      const { reactors, ...list } = await control<{ reactors: unknown[] }>(socket, { command: "list" });
      assert.deepEqual(list, { ok: true, vbds: [], mappedPages: 0 });
      assert.equal(reactors.length, 1);
      await assert.rejects(control(socket, { command: "\u001b[31mrm" }), {
        message: 'unknown command "\\u001b[31mrm"',
      });
      const serving = openFiles();
      await assert.rejects(
        serve(options, () => {}),
        /another daemon answers/,
      );
      await until("the second has let go", () => openFiles() <= serving);
      // The reactor's, and the main thread's.
      assert.equal(host.hypervisor.sessions, 2);
      assert.deepEqual((await control<{ vbds: unknown[] }>(socket, { command: "list" })).vbds, []);
      await daemon.stop();
      await until("the first has let go", () => openFiles() <= before);
      assert.equal(host.hypervisor.sessions, 0);
      // A socket that was left over is no obstacle.
      await (await serve(options, () => {})).stop();
    } finally {
      await host.close();
    }
  },
);
