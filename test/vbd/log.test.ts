/** What reaches the operator of a guest's doings. */
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { PacedLog, printable, quote } from "../../host/vbd/diagnostics.js";

function paced(): { log: PacedLog; lines: string[] } {
  mock.timers.enable({ apis: ["setTimeout"] });
  const lines: string[] = [];
  return { log: new PacedLog((line) => void lines.push(line)), lines };
}

test("one line a second of each kind, the last of a burst included", () => {
  const { log, lines } = paced();
  try {
    for (let i = 0; i < 1000; i++) log.say("a", `a${i}`);
    log.say("b", "b0");
    assert.deepEqual(lines, ["a0", "b0"]);
    mock.timers.tick(1000);
    assert.deepEqual(lines, ["a0", "b0", "a999 (998 similar messages suppressed)"]);
    log.say("a", "a1000");
    log.say("b", "b1");
    mock.timers.tick(1000);
    assert.deepEqual(lines.slice(3), ["b1", "a1000"]);
    mock.timers.tick(1000);
    log.say("a", "later");
    assert.equal(lines.at(-1), "later");
  } finally {
    mock.timers.reset();
  }
});

test("nothing that waits is lost at the end", () => {
  const { log, lines } = paced();
  try {
    log.say("a", "first");
    log.say("a", "last");
    log.flush();
    assert.deepEqual(lines, ["first", "last"]);
    mock.timers.tick(5000);
    assert.equal(lines.length, 2);
  } finally {
    mock.timers.reset();
  }
});

test("a guest's text cannot pass for the daemon's", () => {
  assert.equal(
    printable("a\nb\x1b[0m\x7f\u0085\u202e\ufeffü"),
    "a\\u{a}b\\u{1b}[0m\\u{7f}\\u{85}\\u{202e}\\u{feff}ü",
  );
  assert.equal(quote('"\n\u009b'), '"\\"\\n\\u{9b}"');
  assert.equal(quote("y".repeat(65)), `"${"y".repeat(64)}…"`);
});
