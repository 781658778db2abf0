/** The read-only page, as a browser and as others see it. */
import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { request } from "node:http";
import { test } from "node:test";
import { parseHttpAddress } from "../../host/daemon/http.js";
import { e2e, eventually, freePort } from "../e2e/harness.js";
import { LIMIT, World } from "./world.js";

/** Status and body. */
function ask(
  port: number,
  path: string,
  method = "GET",
  host = `127.0.0.1:${port}`,
): Promise<[number, string]> {
  return new Promise((resolve, reject) => {
    const asked = request({ host: "127.0.0.1", port, path, method, headers: { host } }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text) => (body += text));
      response.on("end", () => resolve([response.statusCode as number, body]));
    });
    asked.on("error", reject).end();
  });
}

test("only a loopback address will do", () => {
  assert.deepEqual(parseHttpAddress("127.0.0.1:8080"), { host: "127.0.0.1", port: 8080 });
  assert.deepEqual(parseHttpAddress("[::1]:80"), { host: "::1", port: 80 });
  for (const bad of [
    "8080",
    "0.0.0.0:80",
    "192.168.0.1:80",
    "127.0.0.1",
    "127.0.0.1:99999",
    "localhost.evil:80",
    "",
  ]) {
    assert.equal(parseHttpAddress(bad), null, bad);
  }
});

test("the page's server reads, and nothing else, for this machine alone", LIMIT, async (t) => {
  const port = await freePort();
  const world = await World.start(t, "--http", `127.0.0.1:${port}`);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  await world.guest();
  const [status, body] = await ask(port, "/vbds.json");
  assert.equal(status, 200);
  const [vbd] = (JSON.parse(body) as { vbds: { name: string; rings: { entries: number }[] }[] }).vbds;
  assert.equal(vbd.name, "xbdback1i51712");
  assert.equal(vbd.rings[0].entries, 32);
  for (const path of ["/", "/page.js", "/page.css", "/?x"])
    assert.equal((await ask(port, path))[0], 200, path);
  for (const path of ["/../package.json", "/constructor", "/page.js/"])
    assert.equal((await ask(port, path))[0], 404, path);
  for (const method of ["POST", "PUT", "DELETE"])
    assert.equal((await ask(port, "/vbds.json", method))[0], 405);
  assert.equal((await ask(port, "/vbds.json", "GET", `evil.example:${port}`))[0], 403);
  (await world.run("serve", "--http", "0.0.0.0:80"))
    .expect(2)
    .expectMatch(/loopback address and a port/, "stderr");
});

e2e("in a browser: the table, the charts, the rings", ["chromium"], async (scene, t) => {
  const port = await freePort();
  const world = await World.start(t, "--http", `127.0.0.1:${port}`);
  for (const [domid, name] of [
    ["1", "web.img"],
    ["2", "db.img"],
  ]) {
    (await world.run("attach", domid, `${world.image(name)},raw,xvda,rw`)).expect(0);
  }
  await world.guest(1, "--queues", "2");
  const picture = process.env["XBDBACK_SCREENSHOT"] ?? scene.path("page.png");
  const flags = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    `--user-data-dir=${scene.path("profile")}`,
  ];
  const url = `http://127.0.0.1:${port}/`;
  const look = (...more: string[]) =>
    scene.run("chromium", ...flags, "--virtual-time-budget=6000", "--window-size=1200,1300", ...more, url);
  await look(`--screenshot=${picture}`);
  assert.ok(existsSync(picture) && statSync(picture).size > 20_000, "a picture");
  let stdout = "";
  // The disk of a busy machine may do nothing for a second.
  const atWork = async (): Promise<boolean> => {
    ({ stdout } = await look("--dump-dom"));
    return !stdout.includes("no I/O in the last second");
  };
  await eventually(atWork, "the guest is at work", 60_000);
  assert.match(stdout, /<p id="summary" role="status">2 vbds, 1 not at work<\/p>/);
  assert.match(stdout, /aria-pressed="true"[^>]*>xbdback1i51712</);
  assert.match(stdout, /waits for the frontend \(state 1, Initialising\)/);
  assert.match(stdout, /id="iops" role="img" aria-label="[0-9.]+ ?[kM]? requests per second"/);
  assert.match(stdout, /id="heat" role="img" aria-label="[0-9.]+ \S{0,2}s on average, none over /);
  assert.equal(stdout.match(/class="slot[ "]/g)?.length, 64);
});
