/** The backend's engines, threads and cache modes, chosen on the command line or by what is forbidden. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { e2e } from "./harness.js";

const quick = ["--size", "16M", "--operations", "1500"];
const SYS_io_uring_setup = 425;
const forbid = new URL("../support/forbid.js", import.meta.url);
const environment = [`FORBID=${SYS_io_uring_setup}`, `NODE_OPTIONS=--import=${forbid.href}`];

e2e("where seccomp forbids io_uring, libuv does it all, and one line says so", [], async (scene) => {
  const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));
  const program = `exec "$0" "$@"`;
  const demo = [process.execPath, command, "demo", ...quick, "--queues", "4", "--reactors", "2"];
  const outcome = await scene.start("env", [...environment, "sh", "-c", program, ...demo]).outcome();
  outcome.expect(0).expectMatch(/^data verified/m);
  const lines = outcome.stdout.match(/^.*io_uring.*$/gm) ?? [];
  const line = "xbdback: no io_uring here (io_uring_setup: EPERM): I/O goes through libuv's thread pool";
  assert.deepEqual(lines, [line], outcome.story);
  scene.checkLeft(outcome);
});

e2e("where io_uring is demanded and forbidden, the backend says so and ends", [], async (scene) => {
  const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));
  const demo = [process.execPath, command, "demo", ...quick, "--engine", "io_uring"];
  const outcome = await scene.start("env", [...environment, ...demo]).outcome();
  outcome.expect(1).expectMatch(/^xbdback: io_uring_setup: EPERM$/m);
  scene.checkLeft(outcome);
});

for (const options of [
  ["--engine", "libuv", "--cache", "none", "--reactors", "1"],
  ["--engine", "io_uring", "--cache", "none", "--no-persistent", "--queues", "4"],
  ["--engine", "io_uring", "--cache", "none", "--poll-us", "30", "--queues", "2"],
  ["--engine", "io_uring", "--cache", "writeback", "--poll-us", "50", "--ring-page-order", "2"],
]) {
  e2e(`the demo with ${options.join(" ")}`, [], async (scene) => {
    const outcome = (await scene.demo(...quick, ...options)).expect(0);
    outcome.expectMatch(/^data verified/m);
  });
}
