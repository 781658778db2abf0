/** Servers that take connections and say nothing: attach and detach say what does not answer, in the daemon's words. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { suite, type TestContext, test } from "node:test";
import { eventually } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { LIMIT, World } from "./world.js";

async function muteServer(t: TestContext, path: string): Promise<void> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket.on("error", () => {})));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await once(server.listen(path), "listening");
}

// Each waits for ten seconds that are over: all of them at once.
suite("servers and daemons that say nothing", { concurrency: true }, () => {
  test("an attach to a mute server ends with the reason, not before the daemon", LIMIT, async (t) => {
    const world = await World.start(t);
    const path = world.scene.path("mute.sock");
    await muteServer(t, path);
    (await world.run("attach", "2", `vdev=xvda,target=nbd+unix:///?socket=${path}`))
      .expect(1)
      .expectMatch(/^xbdback: nbd\+unix:\S+mute\.sock: the server did not answer within 10 s$/m, "stderr");
    (await world.run("show", "2/xvda")).expect(4);
  });

  test("a detach of a disk whose server stops answering says which request waits, and for how long", {
    ...LIMIT,
    skip: absent("nbdkit"),
  }, async (t) => {
    const world = await World.start(t);
    const path = world.scene.path("nbd.sock");
    const server = world.scene.start("nbdkit", ["-f", "-U", path, "memory", "16M"]);
    await eventually(() => existsSync(path), "nbdkit listens");
    (await world.run("attach", "1", `vdev=xvda,target=nbd+unix:///?socket=${path}`)).expect(0);
    await world.guest();
    server.process.kill("SIGSTOP");
    (await world.run("detach", "1/xvda", "--timeout", "3"))
      .expect(5)
      .expectMatch(
        /not detached: the disk has not answered a (read|write|flush|discard) for \d+ s; /,
        "stderr",
      );
    (await world.run("detach", "1/xvda", "--timeout", "2", "--force"))
      .expect(5)
      .expectMatch(
        /removed from xenstore; the daemon has not released the disk yet: the disk has not /,
        "stderr",
      );
    server.process.kill("SIGCONT");
    await eventually(async () => (await world.run("show", "1/xvda")).status === 4, "it is released");
  });

  test(
    "a detach while the daemon runs and does not answer does not say that it is not running",
    LIMIT,
    async (t) => {
      const world = await World.start(t);
      (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
      world.daemon.process.kill("SIGSTOP");
      const { stderr } = (await world.run("detach", "1/xvda", "--timeout", "1")).expect(5);
      assert.match(
        stderr,
        /no daemon answers at \S+ \(no answer in 10 s\): it is overloaded or out of file /,
      );
      assert.doesNotMatch(stderr, /running|start it/);
      world.daemon.process.kill("SIGCONT");
    },
  );

  test("a detach without a daemon says how to start one", LIMIT, async (t) => {
    const world = await World.start(t);
    (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
    world.daemon.process.kill("SIGTERM");
    await world.daemon.outcome();
    (await world.run("detach", "1/xvda", "--timeout", "1"))
      .expect(5)
      .expectMatch(
        /no daemon answers at \S+control\.sock: start it with `xbdback serve --directory /,
        "stderr",
      );
  });
});
