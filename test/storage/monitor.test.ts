/** QEMU's monitor, as a helper speaks it, and as one speaks it that was taken over. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Monitor, type MonitorEvent } from "../../host/storage/helper/monitor.js";
import { absent } from "../support/programs.js";
import { until } from "../vbd/harness.js";
import { directory, LIMIT } from "./helpers.js";
import { type Command, okay, serveMonitor } from "./monitor-server.js";

/** A monitor, and the helper that it is of: `answer` says what that says to each command, or nothing. */
async function helper(
  t: TestContext,
  answer: Parameters<typeof serveMonitor>[1],
  milliseconds?: number,
): Promise<Monitor> {
  const monitor = await Monitor.connect(await serveMonitor(t, answer), milliseconds);
  t.after(() => monitor.close());
  return monitor;
}

test("each command has its own answer, in whatever order and parts they come", LIMIT, async (t) => {
  let first: Command | null = null;
  const monitor = await helper(t, (command, socket) => {
    if (command.execute === "slow") first = command;
    if (command.execute !== "quick") return null;
    const text = `${okay(command, "quick")}{"event": "JOB", "data": {"id": "a"}}\r\n{"event": "BARE"}\r\n`;
    socket.write(text.slice(0, 30));
    setTimeout(() => socket.write(text.slice(30) + okay(first as Command, ["slow"])), 5);
    return null;
  });
  const events: MonitorEvent[] = [];
  monitor.onEvent = (event) => events.push(event);
  assert.deepEqual(await Promise.all([monitor.execute("slow"), monitor.execute("quick")]), [
    ["slow"],
    "quick",
  ]);
  assert.deepEqual(events, [
    { event: "JOB", data: { id: "a" } },
    { event: "BARE", data: {} },
  ]);
});

test("an answer that is an error ends nothing but its command", LIMIT, async (t) => {
  const errors = [{ class: "GenericError", desc: "Node 'a'\nis busy" }, { class: "odd" }, 7];
  const monitor = await helper(t, (command) => {
    if (command.execute === "works") return okay(command);
    if (command.execute !== "fails") return null;
    return `${JSON.stringify({ error: errors.shift(), id: command.id })}\r\n`;
  });
  await assert.rejects(monitor.execute("fails"), { message: "fails: Node 'a' is busy" });
  await assert.rejects(monitor.execute("fails"), { message: "fails: it failed" });
  await assert.rejects(monitor.execute("fails"), { message: "fails: it failed" });
  assert.deepEqual(await monitor.execute("works"), {});
});

test("a helper that dies answers everything that waits", LIMIT, async (t) => {
  const monitor = await helper(t, (command, socket) => {
    if (command.execute === "last") socket.destroy();
    return null;
  });
  const ends: string[] = [];
  monitor.onEnd = ({ message }) => ends.push(message);
  const gone = { message: "the helper has ended" };
  await Promise.all(["first", "last"].map((command) => assert.rejects(monitor.execute(command), gone)));
  await assert.rejects(monitor.execute("late"), gone);
  monitor.quit();
  monitor.close();
  assert.deepEqual(ends, [gone.message]);
});

for (const [what, said, reason] of [
  ["no JSON", "}{\r\n", /says what is not QMP: "}{/],
  ["no object", '["return"]\r\n', /says what is not QMP/],
  ["another's answer", '{"return": {}, "id": 99}\r\n', /answers what was not asked/],
  ["an answer to nothing", '{"error": {"desc": "what?"}}\r\n', /answers what was not asked/],
  ["an answer without one", '{"id": 2}\r\n', /answers what was not asked/],
  ["a line without an end", "x".repeat((1 << 20) + 1), /a line of more than 1048576 characters/],
] as const)
  test(`a helper that says ${what} is not listened to any more`, LIMIT, async (t) => {
    const monitor = await helper(t, ({ execute }) => (execute === "ask" ? said + said : null));
    await assert.rejects(monitor.execute("ask"), reason);
    await assert.rejects(monitor.execute("ask"), reason);
  });

test("a helper that does not answer, and one that takes no commands", LIMIT, async (t) => {
  const mute = await helper(t, () => null, 50);
  await assert.rejects(mute.execute("ask"), /the helper does not answer to ask within 0.05 s/);
  const refuses = ({ execute, id }: Command): string | null =>
    execute === "qmp_capabilities" ? `${JSON.stringify({ error: { desc: "no" }, id })}\r\n` : null;
  const refusing = await helper(t, refuses);
  await assert.rejects(refusing.execute("ask"), /takes no commands: qmp_capabilities: no/);
  await assert.rejects(Monitor.connect("/nowhere/monitor"), { code: "ENOENT" });
});

test("qemu-storage-daemon answers, tells of what happens, and ends when it is told to", {
  ...LIMIT,
  skip: absent("qemu-storage-daemon"),
}, async (t) => {
  const path = join(directory(t), "monitor");
  const chardev = `socket,id=monitor,path=${path},server=on,wait=off`;
  const args = ["--chardev", chardev, "--monitor", "chardev=monitor"];
  const daemon = spawn("qemu-storage-daemon", args, { stdio: "ignore" });
  t.after(() => daemon.kill("SIGKILL"));
  const ended = new Promise((resolve) => daemon.once("exit", resolve));
  await until("it listens", () => existsSync(path));
  const monitor = await Monitor.connect(path);
  const states: unknown[] = [];
  monitor.onEvent = ({ event, data }) => event === "JOB_STATUS_CHANGE" && states.push(data["status"]);
  assert.deepEqual(await monitor.execute("query-jobs"), []);
  await assert.rejects(monitor.execute("job-cancel", { id: "none" }), /job-cancel: Job not found/);
  const nothing = { driver: "null-co", size: 1 << 20 };
  for (const name of ["nothing", "other"])
    await monitor.execute("blockdev-add", { ...nothing, "node-name": name });
  await monitor.execute("blockdev-backup", {
    ...{ "job-id": "copy", device: "nothing", target: "other", sync: "full" },
  });
  await until("the job ends", () => states.includes("concluded"));
  monitor.quit();
  assert.equal(await ended, 0);
  await assert.rejects(monitor.execute("query-jobs"), /the helper has ended/);
});
