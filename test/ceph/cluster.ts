/** The smallest Ceph cluster: a monitor and an OSD on a file, on this machine's loopback address, without authentication. */
import { randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { type Ending, eventually, freePort, type Running, Scene } from "../e2e/harness.js";
import { absent } from "../support/programs.js";

/** QEMU's driver for a cluster's images. */
const RBD_DRIVER = "/usr/lib/x86_64-linux-gnu/qemu/block-rbd.so";

/** Why there can be no cluster here, for node:test's `skip`; false if there can. */
export function noCeph(): string | false {
  return absent("ceph", "ceph-mon", "ceph-osd", "monmaptool", "rbd", "qemu-storage-daemon", RBD_DRIVER);
}

export class Cluster {
  /** The one that this process has started first and not ended. */
  static running: Cluster | null = null;

  readonly scene: Scene;
  #osd: Running | null = null;

  private constructor(scene: Scene) {
    this.scene = scene;
  }

  /** A cluster with a pool `rbd`, that every program finds which is started from now on (CEPH_CONF). */
  static async start(t: Ending): Promise<Cluster> {
    const cluster = new Cluster(new Scene(t));
    Cluster.running ??= cluster;
    t.after(() => {
      if (Cluster.running === cluster) Cluster.running = null;
    });
    const { scene } = cluster;
    const address = `[v2:127.0.0.1:${await freePort()}/0]`;
    const fsid = randomUUID();
    for (const directory of ["mon", "osd", "run"]) mkdirSync(scene.path(directory));
    writeFileSync(scene.path("ceph.conf"), configuration(scene, fsid, address));
    process.env["CEPH_CONF"] = scene.path("ceph.conf");
    const map = scene.path("monmap");
    await scene.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, map);
    await scene.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map);
    scene.start("ceph-mon", ["-i", "a", "-f"]);
    const osd = randomUUID();
    await scene.run("ceph", "osd", "new", osd, "0");
    await scene.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd);
    await cluster.startOsd();
    await scene.run("ceph", "osd", "pool", "create", "rbd", "8");
    return cluster;
  }

  /** An image of zeros in the pool. */
  async create(name: string, bytes: number, ...how: string[]): Promise<void> {
    await this.scene.run("rbd", "create", `rbd/${name}`, "--size", `${bytes}B`, ...how);
  }

  /** Of how many clients it refuses whatever comes. */
  async blocklisted(): Promise<number> {
    const { stdout } = await this.scene.run("ceph", "osd", "blocklist", "ls", "--format", "json");
    // After the JSON it counts them in words.
    return stdout.split('"addr"').length - 1;
  }

  /** What is in an image, in a file. */
  async export(name: string): Promise<string> {
    const path = this.scene.path(`${name}.raw`);
    await this.scene.run("rbd", "export", "--no-progress", `rbd/${name}`, path);
    return path;
  }

  /** As a power cut does. */
  async killOsd(): Promise<void> {
    this.#osd!.process.kill("SIGKILL");
    await this.#osd!.ended;
  }

  /** Resolves when the cluster has it. */
  async startOsd(): Promise<void> {
    this.#osd = this.scene.start("ceph-osd", ["-i", "0", "-f"]);
    const up = async () => / 1 up/.test((await this.scene.run("ceph", "osd", "stat")).stdout);
    await eventually(up, "the OSD is up", 60_000);
  }
}

function configuration(scene: Scene, fsid: string, address: string): string {
  const settings = {
    fsid,
    "mon host": address,
    "public addr": "127.0.0.1",
    keyring: scene.path("keyring"),
    "auth cluster required": "none",
    "auth service required": "none",
    "auth client required": "none",
    "run dir": scene.path("run"),
    "crash dir": scene.path("run"),
    "admin socket": scene.path("run/$name.$pid.asok"),
    "log file": scene.path("$name.log"),
    "mon data": scene.path("mon"),
    // The machine's file system may be rather full.
    "mon data avail crit": 1,
    "mon allow pool size one": true,
    "osd data": scene.path("osd"),
    "osd pool default size": 1,
    "osd pool default pg autoscale mode": "off",
    "osd crush chooseleaf type": 0,
    // A client that is dead counts as such after seconds, and not after half a minute. Those that live say so more often.
    "osd client watch timeout": 6,
    "objecter tick interval": 1,
    "osd objectstore": "bluestore",
    "bluestore block size": 1 << 30,
    "bluestore block create": true,
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`);
  return `[global]\n${lines.join("\n")}\n`;
}
