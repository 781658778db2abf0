/**
 * xenstored goes away under a daemon and comes back: the daemon says so and ends, for the service manager to start it anew, and
 * guests wait. A proxy plays xenstored; what it stands before keeps what was written, as Xen's does over a restart.
 */
import assert from "node:assert/strict";
import { renameSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { test } from "node:test";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { LIMIT, World } from "./world.js";

class XenstoreProxy {
  readonly #path: string;
  readonly #sockets = new Set<Socket>();
  #server: Server | null = null;

  /** Moves the socket at `path` behind itself. */
  constructor(path: string) {
    this.#path = path;
    renameSync(path, `${path}.behind`);
  }

  async start(): Promise<void> {
    const server = createServer((front) => {
      const back = createConnection(`${this.#path}.behind`);
      for (const [socket, other] of [
        [front, back],
        [back, front],
      ]) {
        this.#sockets.add(socket);
        socket.on("error", () => {}).on("close", () => other.destroy());
        socket.pipe(other);
      }
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.#path, resolve));
  }

  /** All watches and transactions are gone with the connections. */
  stop(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    rmSync(this.#path, { force: true });
  }
}

test("a xenstored that is restarted costs the guest a pause", LIMIT, async (t) => {
  const world = await World.start(t);
  world.daemon.process.kill("SIGTERM");
  (await world.daemon.outcome()).expect(0);
  const proxy = new XenstoreProxy(xenstoreSocket(world.directory, 0));
  await proxy.start();
  t.after(() => proxy.stop());
  await world.serveAgain();
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  const guest = world.start("guest", "--workload", "20000");
  await guest.until(/"progress"/);

  proxy.stop();
  const lost = (await world.daemon.outcome()).expect(1);
  const lines = lost.stderr.split("\n").filter((line) => line.includes("level=error"));
  assert.equal(lines.length, 1, lost.story);
  assert.match(lines[0], /xenstore/);
  // As the service manager would, which does not wait for xenstored.
  const early = world.start("serve");
  (await early.outcome()).expect(1).expectMatch(/no loopback machine runs in/, "stderr");

  await proxy.start();
  await world.serveAgain();
  await guest.until(/"verified"/);
  (await guest.outcome()).expect(0);
  assert.match(world.daemon.stderr, /taken over/);
});
