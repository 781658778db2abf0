/** What ships for Prometheus, by its own tools: alert rules, and a proxy for a Prometheus on another machine. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { collect } from "../../host/metrics/collect.js";
import { serveMetrics } from "../../host/metrics/server.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { e2e, eventually, freePort } from "../e2e/harness.js";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";

const RULES = join(ROOT, "packaging/prometheus-alerts.yaml");
const DOCUMENT = readFileSync(join(ROOT, "docs/metrics.md"), "utf8");

test("promtool takes the alert rules, and they fire when they must", { skip: absent("promtool") }, (t) => {
  const check = spawnSync("promtool", ["check", "rules", RULES], { encoding: "utf8" });
  assert.equal(check.status, 0, check.stdout + check.stderr);
  const tests = readFileSync(join(ROOT, "test/metrics/alerts.yaml"), "utf8");
  const path = join(ROOT, "build", `alerts-${process.pid}.yaml`);
  writeFileSync(path, tests.replace("- prometheus-alerts.yaml", `- ${RULES}`));
  t.after(() => rmSync(path));
  const outcome = spawnSync("promtool", ["test", "rules", path], { encoding: "utf8" });
  assert.equal(outcome.status, 0, outcome.stdout + outcome.stderr);
});

test("docs/metrics.md lists every metric, its type and its help", () => {
  const latency = { buckets: [1], seconds: 1 };
  const vbd = {
    storage: { state: "ok" },
    counters: {},
    latency: { read: latency, write: latency, flush: latency, discard: latency },
  };
  const families = collect({
    version: "1",
    vbds: [vbd as unknown as VbdStatus],
    mappedPages: 0,
    reactors: [{} as never],
    reload: { successful: true, succeededAt: 0 },
  });
  const rows = DOCUMENT.split("\n").filter((line) => line.startsWith("| `"));
  assert.deepEqual(
    rows.map((row) => {
      const [name, type, , help] = row
        .split("|")
        .slice(1)
        .map((cell) => cell.trim());
      return [name, type, help];
    }),
    families.map(({ name, type, help }) => [`\`${name}\``, type, help]),
  );
});

e2e("the documented proxy answers who asks from elsewhere", ["nginx"], async (scene, t) => {
  const [behind, before] = [await freePort(), await freePort()];
  const exporter = await serveMetrics({ host: "127.0.0.1", port: behind }, () => "a 1\n");
  t.after(() => exporter.close());
  const example = /```nginx\n([\s\S]*?)```/.exec(DOCUMENT)?.[1] as string;
  const server = example
    .replace("9749", `127.0.0.1:${before}`)
    .replace("9748", String(behind))
    .replace("192.0.2.20", "127.0.0.1");
  const path = (name: string): string => scene.path(name);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (name) => `${name}_temp_path ${path(name)};`,
  );
  writeFileSync(
    path("nginx.conf"),
    `daemon off; master_process off; pid ${path("pid")}; error_log stderr; events {}\n` +
      `http { access_log off; ${temporary.join(" ")}\n${server}}\n`,
  );
  scene.start("nginx", ["-e", "stderr", "-c", path("nginx.conf")]);
  const ask = (): Promise<readonly [number | undefined, string] | null> =>
    new Promise((resolve) => {
      // fetch() would send the address.
      const headers = { host: "dom0.example:9749" };
      get({ host: "127.0.0.1", port: before, path: "/metrics", headers }, async (response) => {
        let body = "";
        for await (const data of response) body += data;
        resolve([response.statusCode, body]);
      }).on("error", () => resolve(null));
    });
  await eventually(async () => (await ask()) !== null, "nginx answers", 60_000);
  assert.deepEqual(await ask(), [200, "a 1\n"]);
});
