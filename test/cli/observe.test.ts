/** trace, record, replay and decode, with a guest at work. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { eventually } from "../e2e/harness.js";
import { LIMIT, World } from "./world.js";

interface Replayed {
  readonly violation: string | null;
  readonly log: string[];
}

interface Decoded {
  readonly records: { kind: string; operation?: string }[];
}

test("a busy vbd is recorded, and the recording replayed and decoded", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  const file = world.scene.path("guest.session");
  (await world.run("record", "1/xvda", file))
    .expect(1)
    .expectMatch(/xbdback1i51712 is not connected/, "stderr");
  assert.ok(!existsSync(file));
  const guest = await world.guest(1, "--queues", "2");
  const told = (await world.run("record", "1/xvda", file, "--seconds", "2", "--ring", "1")).expect(0);
  told.expectMatch(/^xbdback1i51712: .* of ring 1 recorded in .*guest\.session$/m);
  (await world.run("record", "1/xvda", file, "--ring", "2"))
    .expect(1)
    .expectMatch(/no ring 2: the last ring of this vbd is 1/, "stderr");
  // An hour is not waited for, nor an answer of the daemon.
  (await world.run("record", "1/xvda", world.scene.path("absent/guest.session"), "--seconds", "3600"))
    .expect(1)
    .expectMatch(/^xbdback: .*absent\/guest\.session: no such file or directory$/m, "stderr");

  const { violation, log } = await world.json<Replayed>("replay", file);
  assert.equal(violation, null);
  const requests = (await world.json<Decoded>("decode", "--session", file)).records.filter(
    ({ kind }) => kind === "request",
  );
  const responses = log.filter((line) => line.startsWith("response "));
  assert.ok(responses.length > 100, String(responses.length));
  assert.equal(responses.length, requests.length);
  // The guest was content with every answer that it got.
  assert.ok(responses.every((line) => line.endsWith(" 0")));
  assert.ok(requests.some(({ operation }) => operation === "INDIRECT WRITE"));
  (await world.run("decode", "--session", file)).expectMatch(
    /^request operation READ id [0-9]+ sector [0-9]+ /m,
  );

  // It is stopped as a user stops it, and leaves nothing behind.
  const again = world.scene.path("again.session");
  const running = world.start("record", "1/xvda", again, "--json");
  await eventually(() => existsSync(again) && readFileSync(again).length > 100_000, "it records again");
  running.process.kill("SIGINT");
  const { ended, bytes } = JSON.parse((await running.outcome()).expect(0).stdout);
  assert.equal(ended, null);
  assert.equal(readFileSync(again).length, bytes);
  guest.process.kill("SIGTERM");
  await guest.outcome();
});

test("requests are traced as they are answered", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  const guest = await world.guest();
  const lines = (await world.run("trace", "1/xvda", "-n", "200")).expect(0).stdout.trim().split("\n");
  assert.equal(lines.length, 200);
  const row =
    /^\d\d:\d\d:\d\d\.\d{6} +0 (INDIRECT )?(READ|WRITE|WRITE_BARRIER|FLUSH_DISKCACHE|DISCARD) +\d+ +\d+ +\d+ +(\d+us|[\d.]+ms|[\d.]+s|-) okay$/;
  for (const line of lines) assert.match(line, row);
  const objects = (await world.run("trace", "1/xvda", "-n", "20", "--json"))
    .expect(0)
    .stdout.trim()
    .split("\n");
  for (const line of objects) {
    const { result, sectors, time, dropped } = JSON.parse(line);
    if (dropped === undefined) assert.ok(result === "okay" && sectors >= 0 && Date.parse(time) > 0, line);
  }
  // Whoever reads no further ends it; a client that is killed is forgotten.
  const cut = world.scene.start("sh", [
    "-c",
    `'${process.execPath}' '${world.program}' trace 1/xvda --directory '${world.directory}' | head -n 3`,
  ]);
  assert.equal((await cut.outcome()).expect(0).stdout.trim().split("\n").length, 3);
  const killed = world.start("trace", "1/xvda");
  await killed.until(/okay/);
  killed.process.kill("SIGKILL");
  for (const end = Date.now() + 20_000; (await world.run("trace", "1/xvda", "-n", "1")).status !== 0; ) {
    assert.ok(Date.now() < end, "the next one may not trace");
  }
  const last = world.start("trace", "1/xvda");
  await last.until(/okay/);
  guest.process.kill("SIGTERM");
  (await last.outcome()).expect(0).expectMatch(/the trace ends: the ring was closed/, "stderr");
});
