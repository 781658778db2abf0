/** The hotplug script block-xbdback and the daemon that answers it, as libxl has them work together. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Daemon, serve } from "../../host/daemon/serve.js";
import { LoopbackHost, xenstoreSocket } from "../../host/platform/loopback/host.js";
import type { Xenstore } from "../../host/platform/ports.js";
import { openStore } from "../../host/storage/open.js";
import { DEFAULT_FEATURES } from "../../host/vbd/backend-keys.js";
import { until } from "../vbd/harness.js";

const script = fileURLToPath(new URL("../../../xen/block-xbdback", import.meta.url));
const skip = existsSync("/usr/bin/xenstore-read")
  ? false
  : "xenstore-read is not installed (package xenstore-utils)";
const LIMIT = { timeout: 60_000, skip };
const DEVID = 51712;

interface Plug {
  readonly domid?: number;
  readonly devid?: number;
  readonly target: string;
  readonly mode?: string;
}

/** A loopback machine with a daemon, and what libxl does to it. */
class Dom0 {
  readonly directory: string;
  readonly log: string[] = [];
  readonly #host: LoopbackHost;
  #daemon: Daemon | null = null;

  private constructor(host: LoopbackHost) {
    this.#host = host;
    this.directory = mkdtempSync(join(tmpdir(), "xbdback-hotplug-"));
  }

  static async start(t: TestContext): Promise<Dom0> {
    const dom0 = new Dom0(await LoopbackHost.start());
    t.after(() => dom0.#close());
    const platform = { kind: "loopback", directory: dom0.#host.directory, domid: 0 } as const;
    const log = (line: string): void => void dom0.log.push(line);
    dom0.#daemon = await serve({ platform, kind: "vbd", features: DEFAULT_FEATURES, log }, () => {});
    return dom0;
  }

  get xenstore(): Xenstore {
    return this.#host.xenstore;
  }

  async stopDaemon(): Promise<void> {
    await this.#daemon?.stop();
    this.#daemon = null;
  }

  image(name: string): string {
    const path = join(this.directory, name);
    writeFileSync(path, "");
    truncateSync(path, 1 << 20);
    return path;
  }

  node(key: string, { domid = 1, devid = DEVID }: Partial<Plug> = {}): string {
    return `/local/domain/0/backend/vbd/${domid}/${devid}${key && `/${key}`}`;
  }

  /** libxl's part until the script's turn. */
  async prepare(plug: Plug): Promise<void> {
    const { domid = 1, target, mode = "w" } = plug;
    const frontend = `/local/domain/${domid}/device/vbd/${plug.devid ?? DEVID}`;
    const keys = { frontend, "frontend-id": String(domid), params: target, mode, online: "1", state: "1" };
    await this.xenstore.transaction(async (t) => {
      await t.write(`${frontend}/state`, "1");
      for (const [key, value] of Object.entries(keys)) await t.write(this.node(key, plug), value);
    });
    await until("state 2", async () => (await this.xenstore.read(this.node("state", plug))) === "2");
  }

  /** Runs the script as libxl does; resolves with its status. */
  script(plug: Partial<Plug>, command = "add", path = process.env["PATH"]): Promise<number> {
    const XENBUS_PATH = `backend/vbd/${plug.domid ?? 1}/${plug.devid ?? DEVID}`;
    const env = { PATH: path, XENBUS_PATH, XENSTORED_PATH: xenstoreSocket(this.#host.directory, 0) };
    return new Promise((resolve) => {
      execFile(script, [command], { env, timeout: 50_000 }, (error) =>
        resolve(error ? Number(error.code) : 0),
      );
    });
  }

  /** Adds a disk: null, or why it was refused. */
  async add(plug: Plug): Promise<string | null> {
    await this.prepare(plug);
    if ((await this.script(plug)) === 0) {
      assert.equal(await this.xenstore.read(this.node("hotplug-status", plug)), "connected");
      assert.equal(await this.xenstore.read(this.node("physical-device-path", plug)), plug.target);
      return null;
    }
    assert.equal(await this.xenstore.read(this.node("physical-device-path", plug)), null);
    return this.xenstore.read(this.node("hotplug-error", plug));
  }

  /** libxl's removal. */
  async remove(plug: Partial<Plug> = {}): Promise<void> {
    await this.xenstore.transaction(async (t) => {
      await t.write(this.node("online", plug), "0");
      await t.write(this.node("state", plug), "5");
    });
    await until("state 6", async () => (await this.xenstore.read(this.node("state", plug))) === "6");
    assert.equal(await this.script(plug, "remove"), 0);
    await this.xenstore.remove(this.node("", plug));
    await this.xenstore.remove(`/local/domain/${plug.domid ?? 1}/device/vbd/${plug.devid ?? DEVID}`);
  }

  async #close(): Promise<void> {
    await this.stopDaemon();
    await this.#host.close();
    rmSync(this.directory, { recursive: true });
  }
}

/** Whether a program that heeds locks finds the image free. */
async function isFree(path: string): Promise<boolean> {
  try {
    const { fd } = await openStore(path, { readOnly: false });
    closeSync(fd);
    return true;
  } catch {
    return false;
  }
}

test(
  "a disk that can be served is the daemon's from the script's answer to its removal",
  LIMIT,
  async (t) => {
    const dom0 = await Dom0.start(t);
    const target = dom0.image("a.img");
    assert.equal(await dom0.add({ target }), null);
    assert.equal(await isFree(target), false);
    await dom0.remove();
    await until("the image is free", () => isFree(target));
    assert.equal(await dom0.add({ target }), null, "it can be added again");
    await dom0.xenstore.remove("/local/domain/0/backend");
    await until("the image is free once its directory is gone", () => isFree(target));
  },
);

test("a disk that cannot be served is refused with the reason in hotplug-error", LIMIT, async (t) => {
  const dom0 = await Dom0.start(t);
  const target = dom0.image("a.img");
  const cases: [string, RegExp][] = [
    [join(dom0.directory, "none.img"), /none\.img: no such file; create it or correct the disk's path$/],
    ["disk.img", /^target is "disk\.img": name an image or device by its absolute path$/],
    ["", /absolute path$/],
    [dom0.directory, /is a directory; name an image file or a block device$/],
    ["/dev/null", /is a character device/],
  ];
  for (const [i, [bad, why]] of cases.entries()) {
    assert.match(String(await dom0.add({ target: bad, devid: 768 + i })), why);
    assert.equal(await dom0.xenstore.read(dom0.node("hotplug-status", { devid: 768 + i })), "error");
  }
  const mine = await openStore(target, { readOnly: false });
  assert.match(String(await dom0.add({ target })), /in use by this process/);
  assert.equal(await dom0.xenstore.read(dom0.node("hotplug-status")), "busy");
  closeSync(mine.fd);
  await dom0.remove();
  assert.equal(await dom0.add({ target }), null, "a refusal holds nothing");
});

test(
  "a store has one writer or many readers, unless both are one machine or the mode says so",
  LIMIT,
  async (t) => {
    const dom0 = await Dom0.start(t);
    const target = dom0.image("a.img");
    const inUse = /a\.img: in use by xbdback1i51712, a disk of domain 1; detach it there first/;
    await dom0.xenstore.write("/local/domain/1/vm", "/vm/one");
    await dom0.xenstore.write("/local/domain/2/vm", "/vm/two");
    assert.equal(await dom0.add({ target }), null);
    assert.match(String(await dom0.add({ target, domid: 2 })), inUse);
    assert.match(String(await dom0.add({ target, domid: 2, devid: 768, mode: "r" })), inUse);
    assert.match(String(await dom0.add({ target, devid: 768 })), inUse, "nor the same guest twice");
    // The device model's stub domain is part of its guest's machine.
    await dom0.xenstore.write("/local/domain/3/vm", "/vm/stub");
    await dom0.xenstore.write("/local/domain/3/target", "1");
    assert.equal(await dom0.add({ target, domid: 3 }), null);
    assert.equal(await dom0.add({ target, domid: 2, devid: 832, mode: "w!" }), null);
    assert.match(
      String(await dom0.add({ target, domid: 3, devid: 768 })),
      /in use by/,
      "its user is another machine",
    );
  },
);

test("what another backend of this domain serves is in use, locked or not", LIMIT, async (t) => {
  const dom0 = await Dom0.start(t);
  const target = dom0.image("a.img");
  const qdisk = "/local/domain/0/backend/qdisk/2/51712";
  const serve = async (keys: Record<string, string>): Promise<void> => {
    for (const [key, value] of Object.entries(keys)) await dom0.xenstore.write(`${qdisk}/${key}`, value);
  };
  const add = async (plug: Partial<Plug>): Promise<string | null> => {
    const said = await dom0.add({ target, ...plug });
    await dom0.remove(plug);
    return said;
  };
  // QEMU's qdisk takes no lock.
  await serve({ state: "4", params: `aio:${target}`, mode: "w", "device-type": "disk" });
  const inUse =
    /a\.img: in use by backend\/qdisk\/2\/51712, a disk of domain 2 that another backend serves; detach it there first/;
  assert.match(String(await add({})), inUse);
  assert.match(String(await add({ mode: "r" })), inUse);
  assert.equal(await add({ mode: "w!" }), null);
  assert.equal(await add({ target: dom0.image("b.img") }), null);
  await serve({ params: "qcow2:/none.qcow2" });
  assert.equal(await add({}), null);
  await serve({ params: target, mode: "r" });
  assert.equal(await add({ mode: "r" }), null, "both read");
  assert.match(String(await add({})), inUse);
  await serve({ mode: "w", state: "6" });
  assert.equal(await add({}), null, "it is closed");
  await serve({ state: "4" });
  await dom0.xenstore.write("/local/domain/1/vm", "/vm/one");
  await dom0.xenstore.write("/local/domain/2/vm", "/vm/one");
  assert.equal(await add({}), null, "one machine");
});

test("readers share, and keep writers out", LIMIT, async (t) => {
  const dom0 = await Dom0.start(t);
  const target = dom0.image("a.img");
  assert.equal(await dom0.add({ target, mode: "r" }), null);
  assert.equal(await dom0.add({ target, domid: 2, mode: "r" }), null);
  assert.match(String(await dom0.add({ target, domid: 3 })), /in use by xbdback[12]i51712/);
});

test("without a daemon the script gives up in time", LIMIT, async (t) => {
  const dom0 = await Dom0.start(t);
  await dom0.prepare({ target: dom0.image("a.img") });
  await dom0.stopDaemon();
  // A sleep that does not.
  writeFileSync(join(dom0.directory, "sleep"), "#!/bin/sh\n", { mode: 0o755 });
  assert.equal(await dom0.script({}, "add", `${dom0.directory}:${process.env["PATH"]}`), 1);
  assert.match(String(await dom0.xenstore.read(dom0.node("hotplug-error"))), /does not answer/);
  assert.equal(await dom0.xenstore.read(dom0.node("hotplug-status")), "error");
});
