// The read-only page of `xbdback serve --http`: asks the daemon every second and draws what it says.
const INTERVAL_MS = 1000;
const SAMPLES = 120;
const BUCKETS = 25;

const byId = (id) => document.getElementById(id);
const histories = new Map();
let chosen = null;
let before = null;

function short(value, unit = "") {
  const [scaled, prefix] =
    value >= 1e9
      ? [value / 1e9, "G"]
      : value >= 1e6
        ? [value / 1e6, "M"]
        : value >= 1e3
          ? [value / 1e3, "k"]
          : [value, ""];
  return `${scaled.toFixed(scaled < 10 && prefix ? 1 : 0)} ${prefix}${unit}`.trim();
}

function time(seconds) {
  if (seconds === null) return "–";
  return seconds < 1e-3
    ? `${(seconds * 1e6).toFixed(0)} µs`
    : seconds < 1
      ? `${(seconds * 1e3).toFixed(1)} ms`
      : `${seconds.toFixed(1)} s`;
}

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

function cell(row, text) {
  row.insertCell().textContent = text;
}

function drawTable(vbds) {
  const focused = document.activeElement?.dataset?.vbd;
  byId("vbds").replaceChildren(
    ...vbds.map((vbd) => {
      const row = document.createElement("tr");
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: vbd.name });
      button.dataset.vbd = vbd.name;
      button.setAttribute("aria-pressed", String(vbd.name === chosen));
      button.addEventListener("click", () => {
        chosen = vbd.name;
        draw(before.answer);
      });
      row.insertCell().append(button);
      const rate = histories.get(vbd.name).at(-1);
      cell(row, vbd.device ?? "–");
      cell(row, vbd.waitsFor === null ? "at work" : `waits for ${vbd.waitsFor}`);
      cell(row, short(rate.iops));
      cell(row, short(rate.read, "B"));
      cell(row, short(rate.written, "B"));
      cell(row, time(rate.latency));
      cell(row, String(vbd.inflight));
      return row;
    }),
  );
  if (focused) document.querySelector(`button[data-vbd="${CSS.escape(focused)}"]`)?.focus();
}

function canvas(id, label) {
  const element = byId(id);
  element.setAttribute("aria-label", label);
  const { clientWidth: width, clientHeight: height } = element;
  element.width = width * devicePixelRatio;
  element.height = height * devicePixelRatio;
  const context = element.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  return { context, width, height, style: getComputedStyle(document.documentElement) };
}

function lineChart(id, label, series, unit) {
  const { context, width, height, style } = canvas(id, label);
  const most = Math.max(1, ...series.flat());
  series.forEach((values, i) => {
    context.strokeStyle = style.getPropertyValue(i === 0 ? "--line" : "--second");
    context.lineWidth = 2;
    context.beginPath();
    values.forEach((value, x) => {
      context.lineTo(
        width - ((values.length - 1 - x) * width) / (SAMPLES - 1),
        height - 4 - (value / most) * (height - 24),
      );
    });
    context.stroke();
  });
  context.fillStyle = style.color || "gray";
  context.font = "12px system-ui";
  context.fillText(short(most, unit), 6, 14);
}

function heatMap(history) {
  const { context, width, height, style } = canvas("heat", heatLabel(history.at(-1)));
  const most = Math.max(1, ...history.flatMap(({ heat }) => heat));
  context.fillStyle = style.getPropertyValue("--line");
  history.forEach(({ heat }, x) => {
    heat.forEach((count, bucket) => {
      if (count <= 0) return;
      context.globalAlpha = 0.15 + 0.85 * Math.sqrt(count / most);
      const left = width - ((history.length - x) * width) / SAMPLES;
      context.fillRect(
        left,
        height - ((bucket + 1) * height) / BUCKETS,
        width / SAMPLES + 0.5,
        height / BUCKETS,
      );
    });
  });
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
    `ring ${number}, port ${ring.port}: req_prod ${ring.reqProd}, req_cons ${ring.reqCons}, rsp_prod ${ring.rspProd}, ` +
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

function drawDetail(vbd) {
  byId("detail").hidden = !vbd;
  if (!vbd) return;
  const history = histories.get(vbd.name);
  const now = history.at(-1);
  byId("chosen").textContent = `${vbd.name}${vbd.device === null ? "" : `: ${vbd.device}`}`;
  const of = (name) => history.map((rate) => rate[name]);
  lineChart("iops", `${short(now.iops)} requests per second`, [of("iops")], "");
  lineChart(
    "bytes",
    `${short(now.read, "B")} read and ${short(now.written, "B")} written per second`,
    [of("read"), of("written")],
    "B/s",
  );
  lineChart("depth", `${now.depth} requests in flight`, [of("depth")], "");
  heatMap(history);
  byId("coalescing").textContent =
    `${short(now.segments)} segments became ${short(now.ios)} I/Os in the last second. A slot shows the segments of its request; ` +
    "underlined: where the guest writes next (orange) and where the backend reads next.";
  byId("rings").replaceChildren(...vbd.rings.map(drawRing));
}

function draw({ vbds }) {
  if (!vbds.some(({ name }) => name === chosen)) chosen = vbds[0]?.name ?? null;
  drawTable(vbds);
  drawDetail(vbds.find(({ name }) => name === chosen));
}

function take(answer) {
  const at = performance.now();
  const seconds = before ? (at - before.at) / 1000 : 1;
  for (const vbd of answer.vbds) {
    const old = before?.answer.vbds.find(({ name }) => name === vbd.name);
    const history = [...(histories.get(vbd.name) ?? []), rates(vbd, old, seconds)];
    histories.set(vbd.name, history.slice(-SAMPLES));
  }
  for (const name of histories.keys())
    if (!answer.vbds.some((vbd) => vbd.name === name)) histories.delete(name);
  before = { at, answer };
  const stuck = answer.vbds.filter(({ waitsFor }) => waitsFor !== null).length;
  const summary = `${answer.vbds.length} vbds${stuck > 0 ? `, ${stuck} not at work` : ", all at work"}`;
  if (byId("summary").textContent !== summary) byId("summary").textContent = summary;
  draw(answer);
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch("vbds.json");
      if (!response.ok) throw new Error(`status ${response.status}`);
      take(await response.json());
    } catch (error) {
      byId("summary").textContent = `The daemon does not answer (${error.message}); trying again.`;
    }
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
}

void follow();
