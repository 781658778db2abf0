/** `xbdback events`: a disk's life, as a hook would hear of it. */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { LIMIT, MIB, World } from "./world.js";

test("a disk's life is told as it happens, until the daemon ends or there were enough", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  const hook = world.start("events", "--json", "--count", "5");
  await hook.until(/"began"/);
  (await world.run("attach", "1", `vdev=xvdb,target=${image}.no`)).expect(1);
  (await world.run("attach", "1", `vdev=xvda,target=${image}`)).expect(0);
  const guest = await world.guest();
  truncateSync(image, 32 * MIB);
  (await world.run("resize", "1/xvda")).expect(0);
  world.daemon.process.kill("SIGTERM");
  await world.daemon.ended;
  (await hook.outcome())
    .expect(0)
    .expectMatch(/^xbdback: the daemon has ended; ask the next one$/m, "stderr");
  await world.serveAgain();
  const next = world.start("events", "--json", "--count", "1");
  await next.until(/"began"/);
  guest.process.kill("SIGINT");
  (await next.outcome()).expect(0);
  const parse = ({ stdout }: { stdout: string }) =>
    stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { time: string; event: string; name?: string; message?: string });
  const told = parse(hook);
  assert.deepEqual(
    told.map(({ event, name }) => [event, name]),
    [
      ["began", undefined],
      ["refused", "xbdback1i51728"],
      ["attached", "xbdback1i51712"],
      ["resized", "xbdback1i51712"],
    ],
  );
  assert.match(String(told[1].message), /^.*disk\.img\.no: no such file/);
  assert.deepEqual(
    parse(next).map(({ event }) => event),
    ["began", "detached"],
  );
  const text = world.start("events", "-n", "1");
  await text.until(/^\S+Z began$/m);
  (await world.run("attach", "1", `vdev=xvdc,target=${image}.no`)).expect(1);
  (await text.outcome()).expect(0).expectMatch(/^\S+Z xbdback1i51744 refused .*no such file/m);
});
