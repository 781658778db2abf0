/** `xbdback demo --run CMD` is to CMD what a shell would be: its status, its output, its standard streams. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { e2e, MIB } from "./harness.js";

e2e("the status is that of the command", [], async (scene) => {
  const image = scene.image("disk.img", MIB);
  (await scene.demo(image, "--run", "exit 7")).expect(7);
  (await scene.demo(image, "--run", "true")).expect(0);
  (await scene.demo("--size", "1M", "--run", "exit 3")).expect(3);
});

e2e("a command that a signal ends is a failure", [], async (scene) => {
  const outcome = await scene.demo("--size", "1M", "--run", "kill -TERM $$");
  assert.ok(outcome.status !== 0 && outcome.signal === null, outcome.story);
});

e2e("the command's output is what it wrote, byte for byte", [], async (scene) => {
  const outcome = await scene.demo(
    "--size",
    "1M",
    "--run",
    `printf 'one\\r\\n\\000\\377\\033[0m two, no newline'; printf 'three\\001\\n' >&2`,
  );
  assert.equal(outcome.expect(0).stdout, "one\r\n\0\xff\x1b[0m two, no newline", outcome.story);
  assert.ok(outcome.stderr.includes("three\x01\n"), outcome.story);
  outcome.expectMatch(/^xbd backend: attach device /m, "stderr");
});

e2e("the command gets a URI of a socket that is there, and a large output is whole", [], async (scene) => {
  const check = `case "$uri" in nbd+unix:///?socket=*) test -S "\${uri#*socket=}";; *) false;; esac`;
  const outcome = await scene.demo("--size", "1M", "--run", `${check} && echo yes && seq 1 100000`);
  const numbers = outcome.expect(0).expectMatch(/^yes\n((?:[0-9]+\n)+)/m)[1];
  assert.equal(numbers.trimEnd().split("\n").length, 100_000);
});

e2e("--json prints one object on stdout, whatever the command prints", [], async (scene) => {
  const image = scene.image("disk.img", MIB);
  const outcome = await scene.demo(image, "--json", "--run", "echo out; echo err >&2; exit 5");
  const report = JSON.parse(outcome.expect(5).stdout);
  assert.equal(outcome.stdout.trimEnd().split("\n").length, 1, outcome.story);
  assert.equal(report.status, 5);
  assert.equal(report.image, image);
  assert.match(report.uri, /^nbd\+unix:/);
  assert.ok(report.seconds >= 0 && report.seconds < 60, outcome.story);
  outcome.expectMatch(/^out$/m, "stderr");
  outcome.expectMatch(/^err$/m, "stderr");
});

e2e("an image that cannot be served is one line on stderr, and no command runs", [], async (scene) => {
  const missing = scene.path("missing.img");
  const outcome = await scene.demo(missing, "--run", "touch ran");
  assert.equal(outcome.expect(1).stdout, "");
  assert.match(outcome.stderr, /^xbdback: .*missing\.img: no such file; .*\n$/);
  assert.ok(!existsSync(scene.path("ran")), "the command ran");
});
