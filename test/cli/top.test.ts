/** top: what it draws, and itself on a terminal and without one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Order, sparkline, type TopRow, topScreen, type View } from "../../host/cli/top-screen.js";
import { e2e } from "../e2e/harness.js";
import { LIMIT, World } from "./world.js";

function row(name: string, domid: number, iops: number, more: Partial<TopRow> = {}): TopRow {
  const rates = {
    reads: 0,
    writes: iops,
    readBytes: 0,
    writtenBytes: iops * 4096,
    latency: 1e-4,
    latency99: 1e-3,
  };
  return {
    name,
    domid,
    devid: 51712,
    domainName: null,
    vdev: "xvda",
    iops,
    ...rates,
    inflight: 3,
    errors: 0,
    history: [0, iops],
    status: null,
    ...more,
  };
}

const view = (order: Order, first = 0): View => ({ order, first });

test("more vbds than lines: it says which are shown, and scrolls as far as they go", () => {
  const rows = Array.from({ length: 80 }, (_, i) =>
    row("", i + 1, 80 - i, { domainName: i === 0 ? "a guest" : null }),
  );
  const first = topScreen(rows, view("n"), 80, 16);
  assert.equal(first.length, 16);
  assert.match(first[3], /^a\\040guest +xvda /);
  assert.match(first[15], /^1-12 of 80, /);
  const last = topScreen(rows, view("n", 1000), 80, 16);
  assert.match(last[14], /^80 /);
  assert.match(last[15], /^69-80 of 80, /);
  assert.doesNotMatch(topScreen(rows.slice(0, 3), view("n"), 80, 16).at(-1) ?? "", / of /);
});

test("the busiest first, in 80 columns and in 40, in three lines", () => {
  const rows = [
    row("xbdback1i51712", 1, 10),
    row("xbdback200i51712", 200, 123456, { history: Array.from({ length: 99 }, (_, i) => i) }),
    row("xbdback3i51712", 3, 0, {
      latency: null,
      latency99: null,
      status: "waiting for the frontend (state 1, Initialising)",
    }),
  ];
  for (const [width, height] of [
    [80, 24],
    [40, 10],
    [200, 3],
    [8, 1],
  ]) {
    const lines = topScreen(rows, view("i"), width, height);
    assert.ok(
      lines.every((line) => [...line].length <= width),
      `${width}: ${lines.join("\n")}`,
    );
    assert.ok(lines.length <= Math.max(height, 3));
  }
  const lines = topScreen(rows, view("i"), 80, 24);
  assert.match(lines[0], /^xbdback: 3 vbds, 123k IOPS, 482MiB\/s, 9 in flight; by IOPS$/);
  assert.deepEqual(
    lines.slice(3, 6).map((line) => line.split(" ")[0]),
    ["200", "1", "3"],
  );
  assert.match(lines[5], /waiting for the/);
  assert.match(topScreen(rows, view("n"), 80, 24)[3], /^1 /);
});

test("a sparkline is as high as its highest", () => {
  assert.equal(sparkline([0, 1, 2, 4, 8], 5), "▁▂▃▅█");
  assert.equal(sparkline([0, 0], 4), "  ▁▁");
});

test("without a terminal, a table every interval", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  await world.guest();
  const shown = (await world.run("top", "--count", "2")).expect(0);
  assert.equal(shown.stdout.match(/^VBD /gm)?.length, 2, shown.story);
  assert.equal(shown.stdout.match(/^xbdback1i51712 /gm)?.length, 2, shown.story);
  assert.ok(!shown.stdout.includes("\x1b"), shown.story);
});

e2e("on a terminal of 80 columns; q leaves it as it was", ["script"], async (scene, t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  await world.guest();
  const command = `stty cols 80 rows 24; '${process.execPath}' "$XBDBACK" top --directory '${world.directory}'; echo "status $?"`;
  const keys = "(sleep 4; printf lb; sleep 1; printf q; sleep 1)";
  const running = scene.start("sh", [
    "-c",
    `export XBDBACK='${world.program}'; ${keys} | script -qec '${command.replaceAll("'", "'\\''")}' /dev/null`,
  ]);
  const { stdout } = (await running.outcome()).expect(0);
  assert.ok(stdout.includes("\x1b[?1049h") && stdout.includes("\x1b[?25h\x1b[?1049l"), stdout);
  assert.match(stdout, /xbdback: 1 vbd, .* in flight; by IOPS/);
  assert.match(stdout, /by bytes/);
  assert.match(stdout, /^1 {7}xvda/m);
  assert.match(stdout, /status 0/);
});

e2e(
  "Ctrl-Z gives the terminal back to the shell, and fg takes it again",
  ["script", "bash"],
  async (scene, t) => {
    const world = await World.start(t);
    (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
    const command = `set -m; '${process.execPath}' "$XBDBACK" top --directory '${world.directory}'; echo "stopped with $?"; fg`;
    const keys = "(sleep 4; printf '\\032'; sleep 3; printf q; sleep 2)";
    const running = scene.start("sh", [
      "-c",
      `export XBDBACK='${world.program}'; ${keys} | script -qec 'bash -c "${command.replaceAll('"', '\\"').replaceAll("$", "\\$").replaceAll("'", "'\\''")}"' /dev/null`,
    ]);
    const { stdout } = await running.outcome();
    const [before, after] = stdout.split("stopped with");
    assert.ok(before.trimEnd().includes("\x1b[?1049l"), stdout);
    assert.ok(after?.includes("\x1b[?1049h") && after.includes("\x1b[?1049l"), stdout);
  },
);
