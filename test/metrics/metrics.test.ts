/** What Prometheus reads: its format by a strict reading and promtool's, its numbers by what a guest has done. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { expose } from "../../host/metrics/exposition.js";
import { parseMetricsAddress } from "../../host/metrics/server.js";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";
import { DEVID, DOMID, Machine, until } from "../vbd/harness.js";

const SAMPLE =
  /^([a-z_:][a-z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+-]+|\+Inf|NaN)$/;

/** Samples by `name{labels}`. Throws where the text is not in the format, or a histogram does not add up. */
function read(text: string): Map<string, number> {
  assert.ok(text.endsWith("\n"));
  const samples = new Map<string, number>();
  let family = "";
  let type = "";
  for (const line of text.trimEnd().split("\n")) {
    const [, kind, name, rest] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (kind === "HELP") family = name;
    else if (kind === "TYPE") {
      assert.equal(name, family);
      type = rest;
    } else {
      const match = SAMPLE.exec(line);
      assert.ok(match, line);
      const suffix = match[1].slice(family.length);
      assert.ok(
        match[1].startsWith(family) && (type === "histogram" ? /^_(bucket|sum|count)$/ : /^$/).test(suffix),
        line,
      );
      const key = line.slice(0, line.lastIndexOf(" "));
      assert.ok(!samples.has(key), `${key} is there twice`);
      samples.set(key, Number(match[3]));
    }
  }
  for (const [key, count] of samples) {
    const bucket = /^(.*)_bucket\{(.*),le="\+Inf"\}$/.exec(key);
    if (bucket) assert.equal(count, samples.get(`${bucket[1]}_count{${bucket[2]}}`), key);
  }
  return samples;
}

test("labels and help are escaped; buckets are cumulative", () => {
  const text = expose([
    { name: "a", help: "x\\y\nz", type: "gauge", samples: [{ labels: { l: 'q"\\\n' }, value: 1.5 }] },
    { name: "empty", help: "none", type: "counter", samples: [] },
    {
      name: "h",
      help: "h",
      type: "histogram",
      samples: [{ labels: {}, bounds: [1, 2], counts: [3, 0, 4], sum: 9 }],
    },
  ]);
  assert.equal(
    text,
    '# HELP a x\\\\y\\nz\n# TYPE a gauge\na{l="q\\"\\\\\\n"} 1.5\n# HELP h h\n# TYPE h histogram\n' +
      'h_bucket{le="1"} 3\nh_bucket{le="2"} 3\nh_bucket{le="+Inf"} 7\nh_sum 9\nh_count 7\n',
  );
  read(text);
});

test("only this machine can be an address", () => {
  assert.deepEqual(parseMetricsAddress("127.0.0.1:9748"), { host: "127.0.0.1", port: 9748 });
  assert.deepEqual(parseMetricsAddress("/run/m.sock"), { path: "/run/m.sock" });
  for (const text of ["0.0.0.0:9748", "9748", "example.org:80", "m.sock", ""])
    assert.equal(parseMetricsAddress(text), null);
});

function get(socketPath: string, path: string): Promise<{ status: number | undefined; text: string }> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (data) => {
        text += data;
      });
      response.on("end", () => resolve({ status: response.statusCode, text }));
    });
    asked.on("error", reject).end();
  });
}

/** The metrics of a daemon whose guest has written 8 sectors, read them, flushed, and asked for one past the end. */
async function withDaemon(body: (text: string, socket: string) => Promise<void> | void): Promise<void> {
  const machine = await Machine.start();
  await machine.backend.stop();
  const socket = join(machine.host.directory, "metrics.sock");
  let daemon: ChildProcess | null = null;
  try {
    const guest = await machine.guest();
    const args = ["serve", "--directory", machine.host.directory, "--metrics", socket, "--exit-with-parent"];
    daemon = spawn(process.execPath, [join(ROOT, "bin/xbdback.mjs"), ...args], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    await machine.plug({ path: machine.image() });
    const disk = await machine.connect(guest);
    await disk.write(0, new Uint8Array(4096));
    await disk.read(0, new Uint8Array(4096));
    await disk.flush();
    await until("the daemon answers", () =>
      get(socket, "/metrics").then(
        () => true,
        () => false,
      ),
    );
    await body((await get(socket, "/metrics")).text, socket);
    // The daemon's part in it is not there later.
    await disk.close();
  } finally {
    if (daemon && daemon.exitCode === null) {
      const ended = once(daemon, "exit");
      daemon.kill("SIGKILL");
      await ended;
    }
    await machine.close();
  }
}

test("a guest's I/O is counted", { timeout: 60_000 }, () =>
  withDaemon(async (text, socket) => {
    const samples = read(text);
    const of = (name: string, more = ""): number | undefined =>
      samples.get(`xbdback_${name}{domid="${DOMID}",devid="${DEVID}"${more}}`);
    assert.equal(of("bytes_total", ',direction="write"'), 4096);
    assert.equal(of("bytes_total", ',direction="read"'), 4096);
    for (const op of ["read", "write", "flush"]) {
      assert.equal(of("requests_total", `,op="${op}"`), 1, op);
      assert.equal(of("io_duration_seconds_count", `,op="${op}"`), 1, op);
      assert.ok((of("io_duration_seconds_sum", `,op="${op}"`) ?? 0) > 0, op);
    }
    assert.deepEqual([of("vbd_connected"), of("inflight_requests")], [1, 0]);
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    assert.equal((await get(socket, "/")).status, 404);
  }),
);

test("promtool finds nothing to object to", { skip: absent("promtool"), timeout: 60_000 }, () =>
  withDaemon((text) => {
    const { stdout, stderr, status } = spawnSync("promtool", ["check", "metrics"], {
      input: text,
      encoding: "utf8",
    });
    assert.deepEqual([status, stdout, stderr], [0, "", ""]);
  }),
);

test("the dashboard asks for metrics that there are", { timeout: 60_000 }, () =>
  withDaemon((text) => {
    const names = new Set([...read(text).keys()].map((key) => key.replace(/\{.*/, "")));
    const dashboard = readFileSync(join(ROOT, "packaging/grafana-dashboard.json"), "utf8");
    const asked = new Set(dashboard.match(/xbdback_[a-z_]+/g));
    assert.ok(asked.size > 8);
    assert.deepEqual(
      [...asked].filter((name) => !names.has(name)),
      [],
    );
    JSON.parse(dashboard);
  }),
);
