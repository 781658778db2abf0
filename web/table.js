/** The table of disks: sorted by a click on a heading, filtered by a text. */
import { bytes, count, time } from "./format.js";

const text = (of) => ({ of, show: String });
const number = (of, show) => ({ of, show, numeric: true });

/** What tells images apart is at the end of their paths. */
const ending = (path) => path.replace(/^\/.*(?=\/[^/]*\/[^/]*$)/, "…");

const COLUMNS = {
  disk: text(({ vbd }) => vbd.title),
  image: text(({ vbd }) => ending(vbd.device ?? "")),
  status: text(({ vbd }) => vbd.summary),
  iops: number(({ rate }) => rate.iops, count),
  read: number(
    ({ rate }) => rate.read,
    (value) => bytes(value, "/s"),
  ),
  written: number(
    ({ rate }) => rate.written,
    (value) => bytes(value, "/s"),
  ),
  latency: number(
    ({ rate }) => rate.latency ?? -1,
    (value) => time(value < 0 ? null : value),
  ),
  depth: number(({ vbd }) => vbd.inflight, String),
};

export class Table {
  #body;
  #filter;
  #rows = new Map();
  #sort = { column: null, descending: false };
  #choose;
  #redraw;

  constructor(table, filter, { choose, redraw }) {
    [this.#body] = table.tBodies;
    this.#filter = filter;
    this.#choose = choose;
    this.#redraw = redraw;
    filter.addEventListener("input", redraw);
    for (const button of table.tHead.querySelectorAll("button"))
      button.addEventListener("click", () => this.#sortBy(table, button.dataset.column));
  }

  /** `entries` are in the order of domains and devices. Returns how many the filter hides. */
  draw(entries, chosen) {
    const wanted = this.#filter.value.trim().toLowerCase();
    const shown = entries.filter(({ vbd }) => vbd.searchable.includes(wanted));
    const { column, descending } = this.#sort;
    if (column !== null) {
      const { of, numeric } = COLUMNS[column];
      const order = numeric
        ? (a, b) => of(a) - of(b)
        : (a, b) => of(a).localeCompare(of(b), "en", { numeric: true });
      shown.sort((a, b) => (descending ? order(b, a) : order(a, b)));
    }
    for (const name of this.#rows.keys())
      if (!entries.some(({ vbd }) => vbd.name === name)) this.#rows.delete(name);
    const rows = shown.map((entry) => this.#row(entry, chosen));
    // Rows that stay where they are keep the keyboard's focus.
    if (rows.length !== this.#body.rows.length || rows.some((row, i) => this.#body.rows[i] !== row)) {
      const focused = document.activeElement;
      this.#body.replaceChildren(...rows);
      if (this.#body.contains(focused)) focused.focus({ preventScroll: true });
    }
    return entries.length - shown.length;
  }

  #row(entry, chosen) {
    const { vbd } = entry;
    let row = this.#rows.get(vbd.name);
    if (!row) {
      row = document.createElement("tr");
      const button = document.createElement("button");
      Object.assign(button, { type: "button", title: vbd.name });
      for (const [name, { numeric }] of Object.entries(COLUMNS)) {
        const cell = row.insertCell();
        cell.className = numeric ? `${name} numeric` : name;
      }
      row.cells[0].append(button);
      row.addEventListener("click", () => this.#choose(vbd.name));
      this.#rows.set(vbd.name, row);
    }
    for (const [i, [name, { of, show }]] of Object.entries(COLUMNS).entries()) {
      const target = name === "disk" ? row.cells[0].firstChild : row.cells[i];
      const value = show(of(entry));
      if (target.textContent !== value) target.textContent = value;
    }
    row.cells[1].title = vbd.device ?? "";
    row.cells[2].title = vbd.description;
    row.dataset.level = vbd.level;
    row.cells[0].firstChild.setAttribute("aria-pressed", String(vbd.name === chosen));
    return row;
  }

  #sortBy(table, column) {
    const { numeric } = COLUMNS[column];
    const again = this.#sort.column === column;
    // The busiest first.
    this.#sort = { column, descending: again ? !this.#sort.descending : Boolean(numeric) };
    for (const button of table.tHead.querySelectorAll("button")) {
      const heading = button.closest("th");
      if (button.dataset.column !== column) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", this.#sort.descending ? "descending" : "ascending");
    }
    this.#redraw();
  }
}
