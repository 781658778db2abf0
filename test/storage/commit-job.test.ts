/** The job that writes an overlay back, by what a helper says of it: test/images/commit.test.ts has one that does it. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { CommitJob } from "../../host/storage/helper/commit-job.js";
import { LIMIT } from "./helpers.js";
import { type Command, okay, serveMonitor } from "./monitor-server.js";

const MIB = 1 << 20;
const NEVER = new AbortController().signal;

/** As the helper tells of it. */
function told(status: string, copied = 0, total = 0, error?: string): object {
  return {
    ...{ id: "commit", type: "commit", status, "current-progress": copied, "total-progress": total },
    ...(error !== undefined && { error }),
  };
}

interface Scene {
  readonly job: CommitJob;
  /** Commands, without those that only look. */
  readonly commands: string[];
  /** What the helper says of its jobs from now on: each once, and the last for ever. */
  say(...jobs: unknown[]): void;
}

async function scene(t: TestContext): Promise<Scene> {
  let jobs: unknown[] = [];
  const commands: string[] = [];
  const path = await serveMonitor(t, (command: Command) => {
    if (command.execute === "query-jobs") return okay(command, jobs.length > 1 ? jobs.shift() : jobs[0]);
    commands.push(command.execute);
    return `{"event": "JOB_STATUS_CHANGE", "data": {}}\r\n${okay(command)}`;
  });
  const job = await CommitJob.begin(path);
  t.after(() => job.close());
  const say = (...next: unknown[]): void => {
    jobs = next;
  };
  return { job, commands, say };
}

test("it is copied until little is left, and ended without a guest", LIMIT, async (t) => {
  const { job, commands, say } = await scene(t);
  const other = { id: "other", status: "running", "current-progress": 9, "total-progress": 9 };
  say(
    [other, told("created")],
    [told("running", 0, 10 * MIB)],
    [told("running", 60 * MIB, 100 * MIB)],
    [told("running", 90 * MIB, 120 * MIB)],
  );
  const seen: number[] = [];
  await job.copy(NEVER, ({ copied }) => seen.push(copied / MIB));
  assert.deepEqual(seen, [0, 0, 60, 90]);
  say([told("ready", 120 * MIB, 120 * MIB)], [told("ready")], [told("waiting")], [told("concluded")]);
  await job.complete();
  assert.deepEqual(commands.slice(1), ["block-commit", "job-complete", "job-dismiss"]);
});

test("what has failed, was cancelled, is not there or not understood is told", LIMIT, async (t) => {
  const { job, say } = await scene(t);
  for (const [jobs, reason] of [
    [[told("concluded", 1, 2, "No space left on device")], /^Error: No space left on device$/],
    [[told("concluded", 1, 2)], /it was cancelled/],
    [[], /does not know of it/],
    ["none", /does not know of it/],
    [[null, { id: "commit", status: 7 }], /does not know of it/],
  ] as const) {
    say(jobs);
    await assert.rejects(
      job.copy(NEVER, () => {}),
      reason,
    );
    await assert.rejects(job.complete(), reason);
  }
  // With the request that ends it under way.
  say([told("ready")], [told("concluded", 1, 2, "Input/output error")]);
  await assert.rejects(job.complete(), /Input\/output error/);
  say([told("running", 1, 2)]);
  await assert.rejects(job.complete(30), /takes too long for the last writes/);
});

test("it is given up when the signal comes, and waited for", LIMIT, async (t) => {
  const { job, commands, say } = await scene(t);
  say([told("running", 1, 100 * MIB)]);
  const stop = new AbortController();
  const copying = job.copy(stop.signal, () => setImmediate(() => stop.abort()));
  await assert.rejects(copying, /it was given up/);
  say([told("aborting")], [told("aborting")], [told("concluded")]);
  await job.cancel();
  say([told("aborting")]);
  await job.cancel(30);
  assert.deepEqual(commands.slice(2), ["job-cancel", "job-cancel"]);
});

test("a helper that begins none", LIMIT, async (t) => {
  const path = await serveMonitor(t, ({ execute, id }) =>
    execute === "block-commit" ? `${JSON.stringify({ error: { desc: "no" }, id })}\r\n` : null,
  );
  await assert.rejects(CommitJob.begin(path), /block-commit: no/);
  await assert.rejects(CommitJob.begin("/nowhere"), { code: "ENOENT" });
});
