/** The plain `xbdback demo`: what it prints, and that it finds what is wrong. */
import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";
import { e2e, MIB, type Outcome } from "./harness.js";

const quick = ["--size", "16M", "--operations", "1500"];
const ATTACH = /^xbd backend: attach device (\S+) \(size ([0-9]+)\) for domain 1$/m;
const VERIFIED = /^data verified: every sector read is the one last written/m;

/** The table's figures by their labels. */
function figures({ stdout }: Outcome): Map<string, number> {
  const rows = [...stdout.matchAll(/^ {2}(\S.*?) {2,}([0-9,]+)$/gm)];
  return new Map(rows.map(([, label, figure]) => [label, Number(figure.replaceAll(",", ""))]));
}

const PROTOCOLS = { x86_64: "x86_64-abi", x86_32: "x86_32-abi", native: "native" };
for (const [abi, protocol] of Object.entries(PROTOCOLS)) {
  e2e(
    `the demo of an ${abi} guest prints the diagnostics, a table, and that it verified`,
    [],
    async (scene) => {
      const outcome = (await scene.demo(...quick, "--abi", abi)).expect(0);
      const [, , size] = outcome.expectMatch(ATTACH);
      assert.equal(Number(size), 16 * MIB);
      const connected = `^xbd backend 0xca00 for domain 1 using event channel [0-9]+, protocol ${protocol}$`;
      outcome.expectMatch(new RegExp(connected, "m"));
      outcome.expectMatch(VERIFIED);
      assert.equal(outcome.stderr, "", outcome.story);
      const table = figures(outcome);
      for (const label of [
        "requests",
        "segments",
        "I/Os after coalescing",
        "notifications",
        "IOPS",
        "MiB/s",
      ]) {
        assert.ok(table.get(label)! > 0, `${label}: ${outcome.story}`);
      }
      assert.ok(table.get("segments")! > table.get("requests")!, outcome.story);
    },
  );
}

e2e("the demo prints a diagnostic for each ring", [], async (scene) => {
  const outcome = (await scene.demo(...quick, "--queues", "3", "--no-persistent")).expect(0);
  const ports = [
    ...outcome.stdout.matchAll(/^xbd backend 0xca00 for domain 1 using event channel ([0-9]+), /gm),
  ];
  assert.equal(new Set(ports.map(([, port]) => port)).size, 3, outcome.story);
  outcome.expectMatch(VERIFIED);
});

e2e("the demo's --json is one object with the figures", [], async (scene) => {
  const outcome = (await scene.demo(...quick, "--json")).expect(0);
  const report = JSON.parse(outcome.stdout);
  assert.equal(report.verified, true);
  assert.equal(report.device, "xbdback1i51712");
  assert.match(report.sha256, /^[0-9a-f]{64}$/);
  assert.equal(report.workload.operations, 1500);
  for (const name of ["requests", "segments", "ios", "notifications", "iops"])
    assert.ok(report[name] > 0, name);
});

e2e("a sector that is spoilt behind the backend's back is named", [], async (scene) => {
  const sector = (16 * MIB) / 512 - 3;
  // It ends at the first one found.
  const running = scene.startDemo("--size", "16M", "--operations", "200000");
  const [, path] = await running.until(ATTACH);
  const fd = openSync(path, "r+");
  // Again and again, for the guest writes it too.
  const spoiler = setInterval(() => writeSync(fd, Buffer.alloc(512, 0xee), 0, 512, sector * 512), 2);
  try {
    const outcome = scene.checkLeft(await running.outcome()).expect(1);
    outcome.expectMatch(new RegExp(`^xbdback: .*sector ${sector}: .*found words 4008636142 `, "m"), "stderr");
    assert.doesNotMatch(outcome.stdout, /verified/, outcome.story);
  } finally {
    clearInterval(spoiler);
    closeSync(fd);
  }
});
