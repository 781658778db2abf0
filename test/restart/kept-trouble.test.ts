/** What a service manager keeps where something is wrong with it: no daemon is stopped by that, and no image stays locked. */
import { type TestContext, test } from "node:test";
import { LIMIT, World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { HangingFiles, NO_FUSE } from "../support/hanging-files.js";
import { FakeServiceManager } from "../support/service-manager.js";

const NAME = "xbdback1i51712";
const GONE = "xbdback1i51728";

/** A daemon that was killed with a disk on a file system in user space. */
async function killedOn(
  t: TestContext,
): Promise<{ service: FakeServiceManager; world: World; files: HangingFiles }> {
  const service = new FakeServiceManager();
  t.after(() => service.close());
  const world = await World.startUnder(service, t);
  const files = await HangingFiles.mount(world.scene);
  t.after(() => files.unmount());
  (await world.run("attach", "1", `${files.path(1)},raw,xvda,rw`)).expect(0);
  await eventually(() => service.stored.get(NAME)?.length === 1, "a descriptor is kept");
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  return { service, world, files };
}

test("a file whose server is gone stops no daemon", { ...LIMIT, skip: NO_FUSE }, async (t) => {
  const { service, world, files } = await killedOn(t);
  // As after a restart during which the toolstack has removed the disk.
  service.stored.set(GONE, service.stored.get(NAME) as number[]);
  service.stored.delete(NAME);
  await files.unmount();
  await world.serveAgain();
  await eventually(() => service.stored.get(GONE) === undefined, "it is given back");
  (await world.run("attach", "1", `${world.image("good.img")},raw,xvdb,rw`)).expect(0);
});

test("a file whose server is gone is not kept longer than its disk", {
  ...LIMIT,
  skip: NO_FUSE,
}, async (t) => {
  const { service, world, files } = await killedOn(t);
  await files.unmount();
  await world.serveAgain();
  await eventually(
    async () => /not the disk that the guest has/.test((await world.run("show", "1/xvda")).stdout),
    "the disk waits",
  );
  await eventually(() => service.stored.size === 0, "nothing is kept");
  (await world.run("detach", "1/xvda")).expect(0);
});
