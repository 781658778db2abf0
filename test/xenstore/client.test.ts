/** The client against our server and, if it is installed, against C xenstored. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { XenstoreServer } from "../../host/platform/loopback/xenstored/server.js";
import { type Xenstore, XenstoreError } from "../../host/platform/ports.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { EventQueue, WAITING_PATHS_MAX } from "../../host/platform/xenstore/events.js";
import {
  ANSWER_MAX,
  encodeMessage,
  encodeStrings,
  MessageDecoder,
  MessageType,
} from "../../host/platform/xenstore/wire.js";
import { oracleMissing, startOracle } from "./oracle.js";

interface Running {
  readonly socketPath: string;
  stop(): Promise<void>;
}

const temporary = () => mkdtempSync(join(tmpdir(), "xenstore-"));
const refusedWith = (code: string) => (error: unknown) =>
  error instanceof XenstoreError && error.code === code;

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(2);
}

async function startOurs(): Promise<Running> {
  const dir = temporary();
  const server = await XenstoreServer.listen(join(dir, "socket"));
  const stop = async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  };
  return { socketPath: join(dir, "socket"), stop };
}

function suite(name: string, start: () => Promise<Running>, skip: string | false): void {
  describe(name, { skip, timeout: 120_000 }, () => {
    let running: Running;
    let store: Xenstore;
    let other: Xenstore;

    before(async () => {
      running = await start();
      store = await connectXenstore(running.socketPath);
      other = await connectXenstore(running.socketPath);
    });
    after(async () => {
      store?.close();
      other?.close();
      await running?.stop();
    });

    test("nodes", async () => {
      assert.equal(await store.read("/n/a"), null);
      assert.equal(await store.directory("/n"), null);
      assert.equal(await store.permissions("/n"), null);
      await store.write("/n/a", "größer\0x");
      await store.write("/n/empty", "");
      await store.mkdir("/n/dir");
      assert.equal(await store.read("/n/a"), "größer\0x");
      assert.equal(await store.read("/n/empty"), "");
      assert.deepEqual(await store.directory("/n"), ["a", "empty", "dir"]);
      assert.deepEqual(await store.directory("/n/dir"), []);
      await store.setPermissions("/n/a", ["n0", "r7"]);
      assert.deepEqual(await store.permissions("/n/a"), ["n0", "r7"]);
      await store.remove("/n");
      await store.remove("/n/a/b/c");
      assert.equal(await store.read("/n/a"), null);
    });

    test("errors have xenstored's word", async () => {
      await assert.rejects(store.read("/a//b"), refusedWith("EINVAL"));
      await assert.rejects(store.setPermissions("/", ["q0"]), refusedWith("EINVAL"));
      await assert.rejects(store.write("/a\0b", ""), refusedWith("EINVAL"));
      await assert.rejects(store.write("/big", "v".repeat(4096)), refusedWith("E2BIG"));
      await assert.rejects(store.setPermissions("/nope", ["n0"]), /set permissions of \/nope: ENOENT/);
    });

    test("which domains there are", async () => {
      assert.equal(await store.isDomainIntroduced(0), true);
      assert.equal(await store.isDomainIntroduced(4711), false);
    });

    test("requests are answered each by its own answer", async () => {
      await Promise.all(Array.from({ length: 500 }, (_, i) => store.write(`/many/${i % 50}`, `${i}`)));
      const values = await Promise.all(Array.from({ length: 50 }, (_, i) => store.read(`/many/${i}`)));
      assert.deepEqual(
        values,
        Array.from({ length: 50 }, (_, i) => `${450 + i}`),
      );
      await store.remove("/many");
    });

    test("a directory that does not fit into a message", async () => {
      const names = Array.from({ length: 900 }, (_, i) => `a-rather-long-name-${i}`);
      await Promise.all(names.map((each) => store.mkdir(`/long/${each}`)));
      assert.deepEqual(await store.directory("/long"), names);
      await store.remove("/long");
    });

    test("a watch tells what changes, once registered", async () => {
      const seen: string[] = [];
      let settled = false;
      const registration = store.watch("/w", (path) => {
        assert.ok(settled, "not before watch() has settled");
        seen.push(path);
      });
      const watch = await registration;
      settled = true;
      await until(() => seen.length === 1);
      await other.write("/w/x", "1");
      await until(() => seen.length === 2);
      await other.remove("/w");
      await until(() => seen.length === 3);
      assert.deepEqual(seen, ["/w", "/w/x", "/w"]);
      await watch.remove();
      await watch.remove();
      await other.write("/w/x", "1");
      await store.read("/");
      await sleep(5);
      assert.equal(seen.length, 3);
      await other.remove("/w");
    });

    test("a callback that throws disturbs nobody", async () => {
      const warned = new Promise<Error>((resolve) => process.once("warning", resolve));
      let calls = 0;
      const bad = await store.watch("/bad", () => {
        throw new Error("out of order");
      });
      const good = await store.watch("/bad", () => calls++);
      assert.match((await warned).message, /watch on \/bad: Error: out of order/);
      await until(() => calls > 0);
      await bad.remove();
      await good.remove();
    });

    test("a refused watch calls nobody", async () => {
      const never = () => assert.fail("called");
      await assert.rejects(store.watch("/a//b", never), refusedWith("EINVAL"));
    });

    test("a transaction is all or nothing", async () => {
      const result = await store.transaction(async (t) => {
        await t.write("/t/a", "1");
        await t.mkdir("/t/b");
        await t.setPermissions("/t/a", ["r0"]);
        assert.equal(await other.read("/t/a"), null);
        assert.deepEqual(await t.directory("/t"), ["a", "b"]);
        await t.remove("/t/b");
        return t.read("/t/a");
      });
      assert.equal(result, "1");
      assert.deepEqual(await other.directory("/t"), ["a"]);

      let kept: Parameters<Parameters<Xenstore["transaction"]>[0]>[0] | undefined;
      const failure = new Error("no");
      const body = store.transaction(async (t) => {
        kept = t;
        await t.write("/t/c", "1");
        throw failure;
      });
      await assert.rejects(body, failure);
      assert.deepEqual(await other.directory("/t"), ["a"]);
      await assert.rejects(kept!.read("/t/a"), /the transaction has ended/);
      await store.remove("/t");
    });

    test("transactions that conflict are tried again", async () => {
      await store.write("/count", "0");
      const increment = (client: Xenstore) =>
        client.transaction(async (t) => t.write("/count", `${Number(await t.read("/count")) + 1}`));
      const clients = Array.from({ length: 12 }, (_, i) => (i % 2 ? store : other));
      await Promise.all(clients.map(increment));
      assert.equal(await store.read("/count"), "12");
      await store.remove("/count");
    });

    test("a transaction that never succeeds is given up", async () => {
      let tries = 0;
      const hopeless = store.transaction(async (t) => {
        await t.read("/contended");
        await other.write("/contended", `${++tries}`);
        await t.write("/contended", "mine");
      });
      await assert.rejects(hopeless, refusedWith("EAGAIN"));
      assert.equal(tries, 32);
      await store.remove("/contended");
    });

    test("close rejects what is pending and is not reported as a loss", async () => {
      const third = await connectXenstore(running.socketPath);
      third.onClose = () => assert.fail("onClose");
      const watch = await third.watch("/z", () => {});
      const pending = third.read("/z");
      third.close();
      await assert.rejects(pending, /closed/);
      await assert.rejects(third.read("/z"), /closed/);
      await watch.remove();
      await sleep(5);
    });
  });
}

suite("client, our server", startOurs, false);
suite("client, C xenstored", startOracle, oracleMissing());

/** A xenstored that the test plays: `answer` gets each request and sends what it likes. */
async function withFake(
  answer: (socket: Socket, type: number, id: number) => void,
  body: (store: Xenstore, socket: Socket) => Promise<void>,
): Promise<void> {
  const dir = temporary();
  const path = join(dir, "socket");
  let connection: Socket | null = null;
  const server = createServer((socket) => {
    connection = socket;
    const decoder = new MessageDecoder();
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      decoder.push(chunk);
      for (let m = decoder.next(); m; m = decoder.next()) answer(socket, m.type, m.requestId);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const store = await connectXenstore(path);
  try {
    await until(() => connection !== null);
    await body(store, connection!);
  } finally {
    store.close();
    (connection as Socket | null)?.destroy();
    await new Promise((resolve) => server.close(resolve));
    rmSync(dir, { recursive: true });
  }
}

const ok = (socket: Socket, type: number, id: number) =>
  socket.write(encodeMessage(type, id, 0, encodeStrings("OK")));

test("a storm of events is merged", { timeout: 120_000 }, async () => {
  await withFake(ok, async (store, socket) => {
    const calls = new Map<string, number>();
    await store.watch("/s", (path) => void calls.set(path, (calls.get(path) ?? 0) + 1));
    const event = encodeMessage(MessageType.watchEvent, 0, 0, encodeStrings("/s/same", "0"));
    const block = Buffer.concat(new Array<Buffer>(10_000).fill(event));
    const memory = process.memoryUsage().heapUsed;
    for (let i = 0; i < 100; i++) {
      if (!socket.write(block)) await new Promise((resolve) => socket.once("drain", resolve));
    }
    socket.write(encodeMessage(MessageType.watchEvent, 0, 0, encodeStrings("/s/last", "0")));
    await until(() => calls.has("/s/last"));
    assert.ok(calls.get("/s/same")! < 100_000, `${calls.get("/s/same")} calls for 10^6 events`);
    assert.ok(process.memoryUsage().heapUsed - memory < 200e6);
  });
});

test("too many different paths become one event for what is watched", async () => {
  const queue = new EventQueue();
  const calls: string[] = [];
  const quiet: string[] = [];
  const busy = { path: "/s", changed: (path: string) => void calls.push(path) };
  queue.add({ path: "/q", changed: (path) => void quiet.push(path) }, "/q/1");
  for (let i = 0; i < WAITING_PATHS_MAX * 3; i++) queue.add(busy, `/s/${i}`);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(calls.includes("/s"));
  assert.ok(calls.length <= WAITING_PATHS_MAX);
  assert.deepEqual(quiet, ["/q/1"]);
  calls.length = 0;
  queue.add(busy, "/s/again");
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(calls, ["/s/again"]);
});

test("a lost connection is reported once and rejects everything", { timeout: 120_000 }, async () => {
  await withFake(
    (socket) => socket.destroy(),
    async (store) => {
      const losses: Error[] = [];
      store.onClose = (error) => losses.push(error);
      const results = await Promise.allSettled([store.read("/a"), store.watch("/a", () => {})]);
      assert.deepEqual(new Set(results.map((result) => result.status)), new Set(["rejected"]));
      await until(() => losses.length > 0);
      await assert.rejects(store.read("/a"), /xenstored closed the connection/);
      await sleep(5);
      assert.equal(losses.length, 1);
    },
  );
});

test("an answer that was not asked for ends the connection", { timeout: 120_000 }, async () => {
  await withFake(
    (socket, type, id) => ok(socket, type, id + 1),
    async (store) => {
      await assert.rejects(store.read("/a"), /protocol error: an answer of type 2 to request 2/);
    },
  );
});

test("oxenstored's long directory, which comes in one message", { timeout: 120_000 }, async () => {
  const names = Array.from({ length: 20_000 }, (_, i) => `${i + 1}`);
  await withFake(
    (socket, type, id) => socket.write(encodeMessage(type, id, 0, encodeStrings(...names))),
    async (store) => assert.deepEqual(await store.directory("/local/domain"), names),
  );
});

test("an answer that is too long for any directory ends the connection", { timeout: 120_000 }, async () => {
  const answer = (socket: Socket, type: number, id: number) => {
    const header = encodeMessage(type, id, 0, Buffer.alloc(0));
    header.writeUInt32LE(ANSWER_MAX + 1, 12);
    socket.write(header);
  };
  await withFake(answer, async (store) => {
    await assert.rejects(store.directory("/"), /protocol error: a message of 1048577 bytes/);
  });
});

test("where nobody listens, the error says so", async () => {
  await assert.rejects(
    connectXenstore("/nonexistent/socket"),
    /\/nonexistent\/socket \(is xenstored running\?\): ENOENT/,
  );
});
