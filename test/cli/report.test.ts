/** `xbdback report`: what is in it, and what is not. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { logOf } from "../../host/cli/commands/report.js";
import { withoutSecrets } from "../../host/cli/secrets.js";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { directory } from "../storage/helpers.js";
import { LIMIT, World } from "./world.js";

interface Report {
  readonly versions: { readonly node: string; readonly xen: string | null };
  readonly daemon: { readonly pid?: number; readonly error?: string };
  readonly process: { readonly limits: string[] } | null;
  readonly vbds: readonly { readonly vbd: { readonly name: string }; readonly rings: unknown[] }[];
  readonly xenstore: Record<string, string>;
  readonly log: null;
}

test(
  "a report has versions, states and keys; without a daemon it says what is not to be had",
  LIMIT,
  async (t) => {
    const world = await World.start(t);
    const image = world.image("disk.img");
    (await world.run("attach", "1", `vdev=xvda,target=${image}`)).expect(0);
    await world.guest();
    const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
    const backend = "/local/domain/0/backend/vbd/1/51712";
    await xenstore.write(`${backend}/url`, "https://somebody:hunter2@server/disk?token=hunter2&size=4");
    await xenstore.write(`${backend}/nbd-password`, "hunter2");
    xenstore.close();
    const { stdout } = (await world.run("report")).expect(0);
    assert.doesNotMatch(stdout, /hunter2/);
    const report = JSON.parse(stdout) as Report;
    assert.equal(report.versions.node, process.version);
    assert.equal(report.daemon.pid, world.daemon.pid);
    assert.ok(report.process?.limits.some((line) => line.startsWith("Max open files")));
    assert.deepEqual(
      report.vbds.map(({ vbd, rings }) => [vbd.name, rings.length]),
      [["xbdback1i51712", 1]],
    );
    assert.equal(report.xenstore[`${backend}/params`], image);
    assert.equal(report.xenstore[`${backend}/url`], "https://somebody:***@server/disk?token=***&size=4");
    assert.equal(report.xenstore["/local/domain/1/device/vbd/51712/state"], "4");
    assert.equal(report.log, null, "it goes to this test");
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    const without = JSON.parse((await world.run("report")).expect(0).stdout) as Report;
    assert.match(String(without.daemon.error), /^no daemon answers at .*: start it with /);
    assert.equal(without.process, null);
  },
);

test("secrets are left out wherever they stand, and nothing else is", () => {
  const plain = { path: "/etc/keys/disk", text: "a keyboard = 3, monkey=4", list: [1, null, true], key: 7 };
  assert.deepEqual(withoutSecrets(plain), plain);
  assert.deepEqual(
    withoutSecrets({
      secret: "s",
      "a/b/tls-key": ["s"],
      text: "password = \"s t\" and rbd_secret='s' user=u\nnbd://u:s@h/e http://h:80/x",
    }),
    {
      secret: "***",
      "a/b/tls-key": ["***"],
      text: "password = *** and rbd_secret=*** user=u\nnbd://u:***@h/e http://h:80/x",
    },
  );
});

test("the log is the end of the file that the daemon writes it to", async (t) => {
  const path = join(directory(t), "log");
  const log = openSync(path, "w");
  for (let line = 0; line < 1500; line++) writeSync(log, `line ${line}\n`);
  const daemon = spawn("sleep", ["60"], { stdio: ["ignore", "ignore", log] });
  t.after(() => daemon.kill());
  await once(daemon, "spawn");
  const lines = logOf(daemon.pid ?? null, false);
  assert.deepEqual([lines?.length, lines?.[0], lines?.[999]], [1000, "line 500", "line 1499"]);
  assert.equal(logOf(null, false), null);
  closeSync(log);
});
