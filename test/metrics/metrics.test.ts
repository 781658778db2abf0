/** What Prometheus reads: its format by a strict reading and promtool's, its numbers by what a guest has done. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { collect } from "../../host/metrics/collect.js";
import { expose } from "../../host/metrics/exposition.js";
import { parseMetricsAddress, serveMetrics } from "../../host/metrics/server.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { freePort } from "../e2e/harness.js";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";
import { DEVID, DOMID, LIMIT, Machine, until } from "../vbd/harness.js";

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
    assert.deepEqual([of("vbd_paused"), of("vbd_oldest_request_seconds")], [0, 0]);
    const states = ["none", "opening", "ok", "waiting"].map((state) =>
      of("vbd_storage_state", `,state="${state}"`),
    );
    assert.deepEqual(states, [0, 0, 1, 0]);
    assert.match(text, /^xbdback_vbd_info\{[^}]*name="xbdback1i51712",vdev="xvda",device="[^"]+",domain="/m);
    assert.equal(
      of("io_duration_seconds_count", ',op="discard"'),
      undefined,
      "an operation that never happened",
    );
    assert.equal(samples.get("xbdback_config_last_reload_successful"), 1);
    assert.ok(
      (samples.get("process_open_fds") ?? 0) > 3 && (samples.get("process_cpu_seconds_total") ?? 0) > 0,
    );
    const started = samples.get("process_start_time_seconds") ?? 0;
    assert.ok(Math.abs(started - Date.now() / 1000) < 120, String(started));
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

test("the buckets add up, and 64 disks take less than 4,000 lines", () => {
  const counts = (last: number): number[] => Array.from({ length: 25 }, (_, i) => (i <= last ? i : 0));
  const none = { buckets: counts(-1), seconds: 0 };
  const latency = { read: { buckets: counts(24), seconds: 9 }, write: { buckets: counts(12), seconds: 1 } };
  const text = expose(
    collect({
      version: "1",
      vbds: Array.from({ length: 64 }, (_, domid) => ({
        ...(Object.fromEntries(VBD_FIELDS) as unknown as VbdStatus),
        domid,
        latency: { ...latency, flush: none, discard: none },
      })),
      mappedPages: 0,
      reactors: [],
      reload: { successful: false, succeededAt: 7 },
    }),
  );
  const samples = read(text);
  const of = (op: string, le: string) =>
    samples.get(`xbdback_io_duration_seconds_bucket{domid="3",devid="51712",op="${op}",le="${le}"}`);
  // 1 + 2 + 3 + 4 are less than 16 µs, 0 to 10 less than 1,024, and 23 and 24 are the longest.
  assert.deepEqual([of("read", "0.000016"), of("read", "0.001024"), of("read", "4.194304")], [10, 55, 253]);
  assert.deepEqual([of("read", "+Inf"), of("write", "+Inf"), of("flush", "+Inf")], [300, 78, undefined]);
  assert.equal(samples.get("xbdback_config_last_reload_successful"), 0);
  assert.ok(text.split("\n").length < 4000, `${text.split("\n").length} lines`);
});

const COUNTERS = new Proxy({}, { get: () => 0 });
const VBD_FIELDS: [string, unknown][] = [
  ["name", "xbdback3i51712"],
  ["devid", 51712],
  ["vdev", "xvda"],
  ["domainName", 'a "b"'],
  ["device", null],
  ["storage", { state: "waiting", since: 1, reason: "x" }],
  ["counters", COUNTERS],
  ["inflight", 0],
  ["size", 0],
  ["queues", 1],
];

/** A server on TCP. */
async function withServer(body: (port: number) => Promise<void>): Promise<void> {
  const port = await freePort();
  const server = await serveMetrics({ host: "127.0.0.1", port }, () => "a 1\n");
  try {
    await body(port);
  } finally {
    await server.close();
  }
}

/** What the server sends to a client that sends this, until it disconnects it. */
async function sent(port: number, text: string): Promise<string> {
  const socket = connect(port, "127.0.0.1", () => socket.write(text));
  let answer = "";
  for await (const data of socket) answer += data;
  return answer;
}

test("on TCP, a name that leads here from elsewhere is refused", () =>
  withServer(async (port) => {
    const ask = (host: string) =>
      sent(port, `GET /metrics HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    assert.match(await ask(`127.0.0.1:${port}`), /^HTTP\/1\.1 200 [\s\S]*a 1\n/);
    assert.match(await ask("localhost"), /^HTTP\/1\.1 200 /);
    assert.match(await ask("evil.example"), /^HTTP\/1\.1 403 /);
  }));

test("who is slow or silent is disconnected, and so is who comes when there are many", LIMIT, () =>
  withServer(async (port) => {
    const slow = sent(port, "GET /metrics HTTP/1.1\r\n");
    const silent = sent(port, "");
    assert.match(await slow, /^(HTTP\/1\.1 408 |$)/);
    assert.match(await silent, /^(HTTP\/1\.1 408 |$)/);
    const many = Array.from({ length: 40 }, () => connect(port, "127.0.0.1").on("error", () => {}));
    let ended = 0;
    for (const socket of many) socket.resume().on("close", () => ended++);
    await until("what is too many is disconnected", () => ended >= 8);
    assert.equal(ended, 8, "the others were too slow");
    for (const socket of many) socket.destroy();
  }),
);
