/** The read-only page, as a browser and as others see it. */
import assert from "node:assert/strict";
import { request } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { parseHttpAddress, servePage } from "../../host/daemon/http.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import type { Vbd } from "../../host/vbd/vbd.js";
import { freePort } from "../e2e/harness.js";
import { pause, until } from "../vbd/harness.js";
import { BROWSER, Chromium } from "./chromium.js";
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

/** 64 disks that do something else each second: a few of them paused, stuck or waiting for their guests. */
class Disks {
  readonly #started = performance.now();

  status(): VbdStatus[] {
    const seconds = (performance.now() - this.#started) / 1000 + 100;
    return Array.from({ length: 64 }, (_, i) => this.#one(i, seconds));
  }

  vbd(name: string): Vbd {
    const requests = [{ slot: 3, operation: "read", sector: 8, segments: 11, number: 1 }];
    const ring = { reqProd: 40, reqCons: 39, rspProd: 38, reqEvent: 1, rspEvent: 2, entries: 32, port: 7 };
    return { name, rings: () => [{ ...ring, requests, oldestSeconds: 0.1 }] } as unknown as Vbd;
  }

  #one(i: number, seconds: number): VbdStatus {
    const done = Math.round(seconds * (i + 1) * 150 + 4000 * Math.sin(seconds / 5 + i));
    const latency = (scale: number) => ({
      buckets: Array.from({ length: 25 }, (_, b) =>
        Math.round(done * scale * Math.exp(-((b - 8 - (i % 5)) ** 2))),
      ),
      seconds: done * 2 ** ((i % 5) - 12),
    });
    const none = { buckets: new Array(25).fill(0), seconds: 0 };
    const stuck = i === 5;
    return {
      name: `xbdback${i + 1}i51712`,
      domid: i + 1,
      devid: 51712,
      domainName: i === 9 ? null : `guest-${i + 1}`,
      vdev: "xvda",
      device: `/var/lib/xen/images/guest-${i + 1}/disk.qcow2`,
      through: null,
      size: 20 * 2 ** 30,
      state: 4,
      frontendState: 4,
      paused: i === 7,
      waitsFor: i === 7 ? "the operator: it is paused (`xbdback unpause`)" : null,
      error: null,
      lastError: stuck ? { message: "read of 8 sectors at 64 failed: EIO", time: Date.now() - 60_000 } : null,
      storage: stuck
        ? { state: "waiting", since: Date.now() - 42_000, reason: "the disk does not answer" }
        : { state: "ok", since: null, reason: null },
      oldestSeconds: stuck ? 42 : null,
      limits: { iops: stuck ? 500 : 0, bps: stuck ? 10 * 2 ** 20 : 0, burst: 1 },
      inflight: stuck ? 31 : i % 4,
      counters: {
        responses: done,
        sectorsRead: done * 16,
        sectorsWritten: done * 6,
        segments: done * 4,
        ios: done,
      },
      latency: { read: latency(0.5), write: latency(0.1), flush: none, discard: none },
    } as unknown as VbdStatus;
  }
}

test("64 disks, wide and narrow: sorted, filtered, stale while the daemon is away", BROWSER, async (t) => {
  const pictures = process.env["XBDBACK_SCREENSHOT"];
  const picture = async (name: string) => pictures && (await browser.screenshot(join(pictures, name)));
  const browser = await Chromium.open(t);
  const port = await freePort();
  const address = { host: "127.0.0.1", port };
  let server = await servePage(address, new Disks());
  const stop = (): void => {
    server.close();
    server.closeAllConnections();
  };
  t.after(stop);
  const see = (what: string, expression: string) =>
    until(what, () => browser.evaluate<boolean>(`Boolean(${expression})`));
  await browser.resize(1280, 900);
  await browser.visit(`http://127.0.0.1:${port}/`);
  await see("all disks are there", "document.querySelectorAll('#vbds tbody tr').length === 64");
  await see("the summary counts", "/^64 disks, 1 with trouble, 1 paused/.test(summary.textContent)");
  assert.equal(await browser.evaluate("document.querySelectorAll('canvas').length"), 4);

  // The busiest first; then the least busy.
  await browser.evaluate("document.querySelector('[data-column=iops]').click()");
  await see("it is sorted", "document.querySelector('th.iops').ariaSort === 'descending'");
  await see(
    "the busiest is near the top",
    "/guest-6\\d/.test(document.querySelector('#vbds tbody tr').textContent)",
  );
  await browser.evaluate("document.querySelector('[data-column=disk]').click()");
  await see(
    "names are in order",
    "/^guest-1 /.test(document.querySelector('#vbds tbody tr:nth-child(2)').textContent)",
  );

  await browser.evaluate("filter.value = 'STUCK'; filter.dispatchEvent(new Event('input'))");
  await see("one is left", "document.querySelectorAll('#vbds tbody tr').length === 1");
  await see("what is hidden is said", "window.hidden.textContent === '1 of 64 shown'");
  await browser.evaluate("document.querySelector('#vbds tbody button').click()");
  const detail = (text: string) => see(text, `detail.textContent.includes(${JSON.stringify(text)})`);
  for (const text of [
    "guest-6 xvda",
    "500 IOPS, 10 MiB/s",
    "20 GiB",
    "failed: EIO",
    "waiting since",
    "xbdback6i51712",
  ])
    await detail(text);
  await browser.evaluate("filter.value = ''; filter.dispatchEvent(new Event('input'))");
  await browser.evaluate("document.querySelector('[title=xbdback8i51712]').click()");
  await detail("it is paused");

  // Beside the table where there is room, above it where there is not; nothing needs sideways scrolling.
  await browser.evaluate("document.querySelector('[title=xbdback12i51712]').click()");
  const box = (id: string) => `document.getElementById('${id}').getBoundingClientRect()`;
  await see("the details are beside", `${box("detail")}.left >= ${box("disks")}.right - 1`);
  await see("there is a line", "document.querySelectorAll('.u-legend').length === 4");
  // Enough seconds for a picture.
  if (process.env["XBDBACK_SCREENSHOT"]) await pause(15_000);
  const x = await browser.evaluate<number>(`${box("iops")}.right - 45`);
  const y = await browser.evaluate<number>(`${box("iops")}.top + 40`);
  await browser.point(x as number, y as number);
  await see(
    "the value at the pointer",
    "/IOPS.*\\/s/.test(document.querySelector('#iops .u-legend').textContent)",
  );
  await picture("wide.png");
  await browser.resize(390, 844);
  await see("the details are above", `${box("detail")}.bottom <= ${box("disks")}.top + 1`);
  await see("it fits", "document.documentElement.scrollWidth <= 390 && innerWidth === 390");
  await see("the charts fit", `${box("iops")}.width <= 390`);
  await picture("narrow.png");
  await browser.evaluate("disks.scrollIntoView()");
  await picture("narrow-table.png");

  await browser.resize(1280, 900);
  await browser.dark();
  const overlap = `[...document.querySelectorAll(".u-legend")].some((legend) =>
    legend.getBoundingClientRect().bottom > legend.closest("figure").getBoundingClientRect().bottom + 1)`;
  await see("no legend covers what is below", `!${overlap}`);
  stop();
  await see("it is marked", "!stale.hidden && document.body.classList.contains('stale')");
  await see("since when", "/has not answered since \\d\\d:\\d\\d:\\d\\d/.test(stale.textContent)");
  await picture("stale.png");
  server = await servePage(address, new Disks());
  await see("it recovers by itself", "stale.hidden && !document.body.classList.contains('stale')");
  await picture("dark.png");
});

test("in a browser: what a daemon serves", BROWSER, async (t) => {
  const browser = await Chromium.open(t);
  const port = await freePort();
  const world = await World.start(t, "--http", `127.0.0.1:${port}`);
  for (const [domid, name] of [
    ["1", "web.img"],
    ["2", "db.img"],
  ]) {
    (await world.run("attach", domid, `${world.image(name)},raw,xvda,rw`)).expect(0);
  }
  await world.guest(1, "--queues", "2");
  const see = (what: string, expression: string) =>
    until(what, () => browser.evaluate<boolean>(`Boolean(${expression})`));
  await browser.resize(1280, 900);
  await browser.visit(`http://127.0.0.1:${port}/`);
  await see("one waits", "summary.textContent === '2 disks, 1 paused or waiting'");
  await see("its I/O is drawn", "/s on average/.test(heat.ariaLabel)");
  await see("requests are counted", "/^[1-9][0-9.]* ?k? requests per second/.test(iops.ariaLabel)");
  assert.equal(await browser.evaluate("document.querySelectorAll('.slot').length"), 64);
});
