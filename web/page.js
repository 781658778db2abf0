// The read-only page of `xbdback serve --http`: asks the daemon every second and draws what it says.
import { Charts } from "./charts.js";
import { bytes, clock, count, time } from "./format.js";
import { Table } from "./table.js";

const INTERVAL_MS = 1000;
const ANSWER_MS = 5000;
const SAMPLES = 120;
const BUCKETS = 25;

const byId = (id) => document.getElementById(id);
const histories = new Map();
let chosen = null;
let before = null;
let charts = null;

const table = new Table(byId("vbds"), byId("filter"), {
  choose(name) {
    chosen = name;
    draw();
  },
  redraw: () => draw(),
});

function rates(now, old, seconds) {
  const anew = !old || old.counters.responses > now.counters.responses;
  const per = (name) => (now.counters[name] - (anew ? now.counters[name] : old.counters[name])) / seconds;
  const heat = new Array(BUCKETS).fill(0);
  let spent = 0;
  for (const [name, { buckets, seconds: took }] of Object.entries(now.latency)) {
    spent += took - (anew ? took : old.latency[name].seconds);
    for (let i = 0; i < BUCKETS; i++)
      heat[i] += buckets[i] - (anew ? buckets[i] : old.latency[name].buckets[i]);
  }
  const ios = heat.reduce((a, b) => a + b, 0);
  return {
    at: Date.now() / 1000,
    iops: per("responses"),
    read: per("sectorsRead") * 512,
    written: per("sectorsWritten") * 512,
    segments: per("segments"),
    ios: per("ios"),
    latency: ios > 0 ? spent / ios : null,
    depth: now.inflight,
    heat,
  };
}

function heatLabel({ latency, heat }) {
  const last = heat.findLastIndex((count) => count > 0);
  return last < 0
    ? "no I/O in the last second"
    : `${time(latency)} on average, none over ${time(2 ** last / 1e6)} in the last second`;
}

function drawRing(ring, number) {
  const element = document.createElement("div");
  element.className = "ring";
  const text = document.createElement("p");
  const oldest = ring.oldestSeconds === null ? "" : `, the oldest for ${ring.oldestSeconds.toFixed(1)} s`;
  text.textContent =
    `ring ${number}, event channel port ${ring.port}: req_prod ${ring.reqProd}, req_cons ${ring.reqCons}, rsp_prod ${ring.rspProd}, ` +
    `req_event ${ring.reqEvent}, rsp_event ${ring.rspEvent}; ${ring.requests.length} in flight${oldest}`;
  const slots = document.createElement("div");
  slots.className = "slots";
  slots.setAttribute("role", "img");
  const list = ring.requests.map(
    ({ slot, operation, sector, segments }) =>
      `slot ${slot}: ${operation} at sector ${sector}, ${segments} segments`,
  );
  slots.setAttribute("aria-label", list.length > 0 ? list.join("; ") : "no slot is in use");
  for (let i = 0; i < ring.entries; i++) {
    const slot = document.createElement("div");
    const request = ring.requests.find((one) => one.slot === i);
    slot.className = "slot";
    slot.title = `slot ${i}`;
    if (request) {
      slot.classList.add("busy");
      slot.textContent = request.segments > 0 ? String(request.segments) : request.operation[0];
      slot.title = `slot ${i}: ${request.operation} at sector ${request.sector}, ${request.segments} segments`;
    }
    if ((ring.reqProd & (ring.entries - 1)) === i) slot.classList.add("prod");
    if ((ring.reqCons & (ring.entries - 1)) === i) slot.classList.add("cons");
    slots.append(slot);
  }
  element.append(text, slots);
  return element;
}

/** In one word, what a vbd does, and how good that is. */
function summarized({ storage, error, paused, waitsFor, inflight }) {
  if (storage.state === "waiting") return ["stuck", "bad"];
  if (error !== null) return ["error", "bad"];
  if (paused) return ["paused", "notice"];
  if (storage.state === "opening") return ["opening", "notice"];
  if (waitsFor !== null) return ["waiting", "notice"];
  return [inflight > 0 ? "active" : "idle", "good"];
}

/** What of a vbd is shown in words. */
function described(vbd) {
  const { domid, domainName, vdev, device, name, description } = vbd;
  const guest = domainName ?? `domain ${domid}`;
  const [summary, level] = summarized(vbd);
  const title = `${guest} ${vdev}`;
  const searchable = [title, name, device, summary, description].join(" ").toLowerCase();
  return { ...vbd, title, summary, level, searchable };
}

function facts(vbd) {
  const { limits, lastError, storage, through, rings } = vbd;
  const limit = [
    limits.iops > 0 && Number.isFinite(limits.iops) ? `${count(limits.iops)} IOPS` : null,
    limits.bps > 0 && Number.isFinite(limits.bps) ? bytes(limits.bps, "/s") : null,
  ].filter((one) => one !== null);
  const since = storage.since === null ? "" : ` since ${clock(storage.since)}`;
  const ages = vbd.oldestSeconds === null ? "" : `, the oldest for ${time(vbd.oldestSeconds)}`;
  return [
    ["guest", vbd.domainName === null ? `domain ${vbd.domid}` : `${vbd.domainName} (domain ${vbd.domid})`],
    ["device", `${vbd.vdev} (${vbd.name})`],
    [
      "image",
      vbd.device === null ? "not open" : through === null ? vbd.device : `${vbd.device}, through ${through}`,
    ],
    ["size", vbd.size > 0 ? bytes(vbd.size) : "not known"],
    ["storage", `${storage.state}${since}`],
    ["limits", limit.length > 0 ? limit.join(", ") : "none"],
    ["paused", vbd.paused ? "yes" : "no"],
    [
      "in flight",
      `${vbd.inflight} requests in ${rings.length} ${rings.length === 1 ? "ring" : "rings"}${ages}`,
    ],
    ["last error", lastError === null ? "none" : `${clock(lastError.time)} ${lastError.message}`],
  ];
}

function drawFacts(vbd) {
  const elements = facts(vbd).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  });
  byId("facts").replaceChildren(...elements);
}

function drawDetail(vbd) {
  byId("detail").hidden = !vbd;
  if (!vbd) return;
  const history = histories.get(vbd.name);
  const now = history.at(-1);
  byId("chosen").textContent = vbd.title;
  byId("description").textContent = vbd.description;
  byId("description").dataset.level = vbd.level;
  drawFacts(vbd);
  charts ??= new Charts({
    iops: byId("iops"),
    bytes: byId("bytes"),
    depth: byId("depth"),
    heat: byId("heat"),
  });
  charts.draw(history, SAMPLES);
  byId("iops").setAttribute("aria-label", `${count(now.iops)} requests per second`);
  byId("bytes").setAttribute(
    "aria-label",
    `${bytes(now.read)} read and ${bytes(now.written)} written per second`,
  );
  byId("depth").setAttribute("aria-label", `${now.depth} requests in flight`);
  byId("heat").setAttribute("aria-label", heatLabel(now));
  byId("coalescing").textContent =
    `${count(now.segments)} segments became ${count(now.ios)} I/Os in the last second. A slot shows the segments of its ` +
    "request; underlined: where the guest writes next (orange) and where the backend reads next.";
  byId("rings").replaceChildren(...vbd.rings.map(drawRing));
}

function draw() {
  if (before === null) return;
  const { vbds } = before;
  if (!vbds.some(({ name }) => name === chosen)) chosen = vbds[0]?.name ?? null;
  const entries = vbds.map((vbd) => ({ vbd, rate: histories.get(vbd.name).at(-1) }));
  const hidden = table.draw(entries, chosen);
  byId("hidden").textContent = hidden > 0 ? `${vbds.length - hidden} of ${vbds.length} shown` : "";
  drawDetail(vbds.find(({ name }) => name === chosen));
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function summary(vbds) {
  const bad = vbds.filter(({ level }) => level === "bad").length;
  const notice = vbds.filter(({ level }) => level === "notice").length;
  const parts = [
    vbds.length === 1 ? "1 disk" : `${vbds.length} disks`,
    ...(bad > 0 ? [`${bad} with trouble`] : []),
    ...(notice > 0 ? [`${notice} paused or waiting`] : []),
  ];
  return parts.join(", ");
}

function take(answer) {
  const at = performance.now();
  const seconds = before ? (at - before.at) / 1000 : 1;
  const vbds = answer.vbds.map(described);
  const gap = {
    at: Date.now() / 1000 - 0.5,
    iops: null,
    read: null,
    written: null,
    depth: null,
    latency: null,
  };
  for (const vbd of vbds) {
    const old = before?.vbds.find(({ name }) => name === vbd.name);
    const history = histories.get(vbd.name) ?? [];
    // No line is drawn through a time of which nothing is known.
    if (history.length > 0 && !byId("stale").hidden) history.push(gap);
    history.push(rates(vbd, old, seconds));
    histories.set(vbd.name, history.slice(-SAMPLES));
  }
  for (const name of histories.keys()) if (!vbds.some((vbd) => vbd.name === name)) histories.delete(name);
  before = { at, time: Date.now(), vbds };
  say(byId("summary"), summary(vbds));
  stale(null);
  draw();
}

/** Marks what is shown as old, or as current again with null. */
function stale(why) {
  document.body.classList.toggle("stale", why !== null && before !== null);
  byId("stale").hidden = why === null;
  if (why === null) return;
  const since = before === null ? "" : ` since ${clock(before.time)}; what is shown is from then`;
  say(byId("stale"), `The daemon has not answered${since}. Trying again (${why}).`);
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch("vbds.json", { signal: AbortSignal.timeout(ANSWER_MS) });
      if (!response.ok) throw new Error(`status ${response.status}`);
      take(await response.json());
    } catch (error) {
      stale(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
}

void follow();
