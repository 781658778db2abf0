/** Reactor threads as the backend uses them. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { type FileHandle, open as openFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { runWorkload } from "../../host/guest/workload.js";
import { makeFifo } from "../../host/platform/libc.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { idleMemories } from "../../host/reactor/memory-pool.js";
import { ReactorPool } from "../../host/reactor/pool.js";
import type { BlockDevice } from "../../host/storage/device.js";
import { libuvEngine } from "../../host/storage/libuv.js";
import { openDevice, openStore } from "../../host/storage/open.js";
import { RawDevice } from "../../host/storage/raw.js";
import { testDevices } from "../vbd/device.js";
import { DEVID, frontendPath, LIMIT, Machine, type MachineOptions, pause, until } from "../vbd/harness.js";

const module = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

for (const engine of ["io_uring", "libuv"] as const) {
  for (const persistent of [true, false]) {
    const grants = persistent ? "persistent grants" : "grant copy";
    test(
      `${engine}, ${grants}: four rings of a disk in two threads, every byte verified`,
      LIMIT,
      async () => {
        const machine = await Machine.start({ threads: { reactors: 2, engine }, features: { persistent } });
        try {
          const path = machine.image("disk.img", 4 << 20);
          const guest = await machine.guest();
          await machine.plug({ path });
          const disk = await machine.connect(guest, { queues: 4 });
          const { threads } = machine.reactor;
          assert.deepEqual(
            threads.map((thread) => [thread.engine, thread.rings]),
            [
              [engine, 2],
              [engine, 2],
            ],
          );
          const chunks: Buffer[] = [];
          const options = { operations: 1500, depth: 64, seed: 1 };
          await runWorkload(disk, options, (data) => chunks.push(Buffer.from(data)));
          assert.deepEqual(Buffer.concat(chunks), readFileSync(path));
          // A thread with libuv publishes its figures ten times a second.
          await until("both threads have made passes", () =>
            machine.reactor.threads.every(({ passes }) => passes > 0),
          );
          const { counters } = machine.status()!;
          assert.equal(counters.responses, disk.counters.responses);
          // Both sides suppress events that the other does not wait for.
          assert.ok(counters.notifications < counters.responses);
          assert.equal(counters.notifications >= disk.counters.notificationsReceived, true);
          assert.ok(disk.counters.notificationsSent < disk.counters.requests);
          await disk.close();
          await machine.untilClean();
          assert.equal(machine.host.hypervisor.grantsInUse(), 0);
        } finally {
          await machine.close();
        }
      },
    );
  }
}

for (const [order, rings] of [
  [
    [4, 1],
    [2, 2, 1],
  ],
  [
    [1, 4],
    [1, 2, 2],
  ],
  [
    [4, 4],
    [3, 2, 3],
  ],
] as const) {
  test(`guests with ${order.join(" and ")} queues: none is in all threads`, LIMIT, async () => {
    const machine = await Machine.start({ threads: { reactors: 2 } });
    try {
      const disks = [];
      for (const [i, queues] of order.entries()) {
        const guest = await machine.guest(i + 1);
        await machine.plug({ path: machine.image(`${i}.img`), domid: i + 1 });
        disks.push(await machine.connect(guest, { queues }));
      }
      assert.deepEqual(
        machine.reactor.threads.map((thread) => thread.rings),
        rings,
      );
      for (const disk of disks) await disk.close();
      await machine.untilClean();
    } finally {
      await machine.close();
    }
  });
}

/** A disk that answers when it is told to. */
interface LateDisk extends Pick<MachineOptions, "threads" | "open"> {
  /** Called before the read. */
  readonly hold?: () => void;
  readonly answer: () => unknown;
}

/** A guest that reads, and leaves before the disk has answered. */
async function readLate(
  { threads, open = openDevice, hold, answer }: LateDisk,
  persistent: boolean,
  destroyed: boolean,
): Promise<void> {
  let idle = -1;
  const machine = await Machine.start({
    ...(threads && { threads }),
    features: { persistent },
    open(path, how, vbd) {
      // From here on the one ring has one memory of them.
      idle = Math.max(idleMemories() - 1, 0);
      return open(path, how, vbd);
    },
  });
  try {
    const guest = await machine.guest();
    machine.image();
    await machine.plug({ mode: "r" });
    const disk = await machine.connect(guest, { queues: 1 });
    hold?.();
    disk.read(0, new Uint8Array(4096)).catch(() => {});
    await until("the read is under way", () => machine.status()?.inflight === 1);
    if (destroyed) {
      await machine.host.destroyGuest(1);
      await machine.unplug();
    } else {
      // The frontend forgets its ring, and waits for nothing.
      disk.suspend();
      await guest.xenstore.write(`${frontendPath(DEVID)}/state`, "6");
    }
    await pause(200);
    assert.equal(idleMemories(), idle, "the memory of a ring whose I/O is under way is free for others");
    assert.equal(machine.status()?.inflight, 1);
    if (!destroyed) {
      assert.notEqual(await machine.state(), 6, "the backend says that it is done");
      if (persistent) assert.ok(machine.host.hypervisor.grantsInUse() > 0, "the guest may use the page");
    }
    await answer();
    if (destroyed) await until("the vbd is gone", () => machine.backend.status().length === 0);
    else await machine.untilState(6);
    assert.equal(idleMemories(), idle + 1);
    await machine.untilClean();
    assert.equal(machine.host.hypervisor.grantsInUse(), 0);
  } finally {
    await machine.close();
  }
}

/** A FIFO plays the disk: io_uring's read of it ends when somebody writes. */
function lateInKernel(directory: string): LateDisk {
  let fifo = -1;
  return {
    threads: { reactors: 1, engine: "io_uring" },
    async open(path: string): Promise<BlockDevice> {
      const store = await openStore(path, { readOnly: true });
      closeSync(store.fd);
      makeFifo(join(directory, "fifo"));
      fifo = openSync(join(directory, "fifo"), constants.O_RDWR);
      return new RawDevice({ ...store, fd: fifo }, libuvEngine);
    },
    answer: () => writeSync(fifo, Buffer.alloc(4096, 0x5a)),
  };
}

/** All threads of libuv's pool wait for the other end of a FIFO, and the read waits for one of them. */
function lateInPool(directory: string): LateDisk {
  const fifos = Array.from({ length: Number(process.env["UV_THREADPOOL_SIZE"] ?? 4) }, (_, i) =>
    join(directory, `fifo${i}`),
  );
  const opened: Promise<FileHandle>[] = [];
  return {
    threads: { reactors: 1, engine: "libuv" },
    hold() {
      for (const fifo of fifos) {
        makeFifo(fifo);
        opened.push(openFile(fifo, "r"));
      }
    },
    async answer() {
      for (const fifo of fifos) closeSync(openSync(fifo, constants.O_RDWR));
      for (const file of opened) await (await file).close();
    },
  };
}

/** A disk that is served in this thread. */
function lateInThread(): LateDisk {
  const { devices, open } = testDevices((device) => {
    device.holding = true;
  });
  return {
    open,
    answer() {
      for (const device of devices.values()) device.release();
    },
  };
}

for (const [engine, make] of [
  ["io_uring", lateInKernel],
  ["libuv's pool", lateInPool],
  ["a disk of this thread", lateInThread],
] as const) {
  for (const persistent of [false, true]) {
    for (const destroyed of [true, false]) {
      const grants = persistent ? "persistent grants" : "grant copy";
      const leaves = destroyed ? "is destroyed" : "closes without waiting";
      test(
        `${engine}, ${grants}: a read that ends after its guest ${leaves} has its memory to itself until then`,
        LIMIT,
        (t) => readLate(make(scratch(t)), persistent, destroyed),
      );
    }
  }
}

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-reactor-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

test("a thread that cannot join its machine says why", LIMIT, async () => {
  const starting = ReactorPool.start({
    ...{ reactors: 1, engine: "auto", pollUs: 0 },
    platform: { kind: "loopback", directory: "/nonexistent", domid: 0 },
    log: () => {},
    onFailure: () => {},
  });
  await assert.rejects(starting, /no loopback machine runs in \/nonexistent/);
});

test(
  "a thread that ends by itself is reported, with the reason, and nothing waits for it",
  LIMIT,
  async () => {
    const host = await LoopbackHost.start();
    try {
      const failures: Error[] = [];
      const pool = await ReactorPool.start({
        ...{ reactors: 1, engine: "io_uring", pollUs: 0 },
        platform: { kind: "loopback", directory: host.directory, domid: 0 },
        log: () => {},
        onFailure: (error) => failures.push(error),
      });
      // Its doorbell is closed behind its back, and rung.
      const doorbells = readdirSync("/proc/self/fd").flatMap((fd) => {
        const path = linkOf(fd);
        return path.startsWith(`${host.directory}/evtchn/`) ? [{ fd: Number(fd), path }] : [];
      });
      assert.equal(doorbells.length, 1);
      const [{ fd, path }] = doorbells;
      const ringer = openSync(path, constants.O_RDWR);
      closeSync(fd);
      writeSync(ringer, new Uint32Array([1]));
      closeSync(ringer);
      await until("it is reported", () => failures.length > 0);
      assert.match(failures[0].message, /read event channels: EBADF/);
      await pool.close();
      assert.equal(failures.length, 1);
    } finally {
      await host.close();
    }
  },
);

test("a daemon whose machine goes away says so in one line and ends", LIMIT, async () => {
  const host = await LoopbackHost.start();
  const args = [module("../bin/xbdback.mjs"), "serve", "--directory", host.directory];
  const daemon = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "pipe"] });
  let said = "";
  daemon.stderr!.setEncoding("utf8").on("data", (text) => {
    said += text;
  });
  const ended = once(daemon, "close");
  try {
    await until("it serves", () => existsSync(join(host.directory, "control.sock")));
    await pause(100);
    await host.close();
    assert.deepEqual(await ended, [1, null]);
    const errors = said.split("\n").filter((line) => line !== "" && !line.includes(" level=info "));
    assert.equal(errors.length, 1, said);
    assert.match(errors[0], /^time=\S+ level=error msg="[^\n]*xenstored closed the connection[^\n]*"$/);
  } finally {
    daemon.kill("SIGKILL");
  }
});

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

test("a process that ends while a thread of it still loads its modules ends well", LIMIT, async () => {
  const args = [module("../bin/xbdback.mjs"), "serve", "--dump-config"];
  // One of ten or so crashed in koffi when nobody waited for the thread.
  const ends = Array.from({ length: 12 }, () =>
    once(spawn(process.execPath, args, { stdio: "ignore" }), "exit"),
  );
  for (const end of ends) assert.deepEqual(await end, [0, null]);
});

test("process.exit() does not wait for a thread that waits in the kernel", LIMIT, (t) => {
  const program = `
    import { LoopbackHost } from ${JSON.stringify(module("host/platform/loopback/host.js"))};
    import { ReactorPool } from ${JSON.stringify(module("host/reactor/pool.js"))};
    const { directory } = await LoopbackHost.start();
    await ReactorPool.start({
      reactors: 1, engine: "io_uring", pollUs: 0, log: () => {}, onFailure: () => {},
      platform: { kind: "loopback", directory, domid: 0 },
    });
    process.stdout.write(directory);
    process.exit(7);`;
  const directory = scratch(t);
  writeFileSync(join(directory, "exit.mjs"), program);
  const start = performance.now();
  const child = spawnSync(process.execPath, [join(directory, "exit.mjs")], { timeout: 120_000 });
  assert.equal(child.status, 7, `after ${performance.now() - start} ms: ${child.stderr}`);
  // Nothing of its own has run that would have removed it.
  rmSync(child.stdout.toString(), { recursive: true });
});
