/** A web server's file through the whole of xbdback. */
import { readFileSync } from "node:fs";
import { World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { webServer } from "../storage/web-server.js";
import { lives, SIZE, withPrograms } from "./support.js";

/** Its process. */
async function nbdkitOf(world: World): Promise<number> {
  const { vbd } = await world.json<{ vbd: { through: string } }>("show", "1/xvda");
  return Number(/^nbdkit, process ([0-9]+)/.exec(vbd.through)?.[1]);
}

withPrograms(
  ["nbdkit", "qemu-storage-daemon", "qemu-img"],
  "a file on a web server is served read-only, whoever of daemon and nbdkit is killed",
  async (t) => {
    const world = await World.start(t);
    const image = world.scene.image("disk.img", Buffer.alloc(SIZE, "web"));
    const { url } = await webServer(t, readFileSync(image));
    const target = `vdev=xvda,access=ro,target=${url}`;
    (await world.run("check", target))
      .expect(0)
      .expectMatch(/\(nbdkit, process [0-9]+, by qemu-storage-daemon, process [0-9]+\)/);
    (await world.run("attach", "1", target)).expect(0);
    const first = await nbdkitOf(world);
    const socket = world.scene.path("guest.sock");
    const guest = world.start("guest", "--domid", "1", "--nbd", socket);
    await guest.until(/"listening"/);
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    const next = world.start("serve");
    await eventually(() => /taken over/.test(next.stderr), "the next daemon takes over");
    await eventually(() => !lives(first), "nbdkit has ended with its daemon");
    const uri = `nbd+unix:///?socket=${socket}`;
    (await world.scene.run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)).expect(0);
    const second = await nbdkitOf(world);
    process.kill(second, "SIGKILL");
    await eventually(() => /connected again/.test(next.stderr), "another nbdkit is there");
    (await world.scene.run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)).expect(0);
    const third = await nbdkitOf(world);
    (await world.run("detach", "1/xvda", "--force", "--timeout", "1")).expect(0);
    await eventually(() => !lives(third), "nbdkit ends with its disk");
  },
);
