/** A scenario of the lab as a test, with a subtest for each of its checks. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { runInLab, type Xenstored } from "./lab.js";

/** The part of an output that belongs to a check: what was printed since the one before. */
export function checksOf(output: string): { name: string; ok: boolean; said: string }[] {
  const checks: { name: string; ok: boolean; said: string }[] = [];
  let said: string[] = [];
  for (const line of output.split("\n")) {
    const match = /^CHECK (ok|FAILED) (.*)$/.exec(line);
    if (!match) {
      said.push(line);
      continue;
    }
    checks.push({ name: match[2], ok: match[1] === "ok", said: said.join("\n") });
    said = [];
  }
  return checks;
}

/** A test that runs a scenario once and shows each of its checks. */
export function scenario(
  name: string,
  script: string,
  seconds: number,
  env: Record<string, string>,
  xenstored: Xenstored,
): void {
  test(name, { timeout: (seconds + 120) * 1000 }, async (t) => {
    const { status, output, console } = await runInLab(script, seconds, env, xenstored);
    for (const check of checksOf(output)) {
      await t.test(check.name, () => assert.ok(check.ok, `${check.name}\n${check.said}`));
    }
    assert.ok(
      status === 0 && output.includes("CHECKS DONE"),
      `${script} did not get to its end: status ${status}\n${output}\n-- Xen and dom0:\n${console.slice(-8000)}`,
    );
  });
}
