/** How numbers are shown. Bytes in powers of 1,024, as the commands show them. */
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
const DECIMAL = ["", "k", "M", "G"];

function scaled(value, base, prefixes) {
  let power = 0;
  for (; value >= base && power < prefixes.length - 1; power++) value /= base;
  return [value < 10 && value % 1 >= 0.05 ? value.toFixed(1) : value.toFixed(0), prefixes[power]];
}

export function bytes(value, per = "") {
  const [number, prefix] = scaled(value, 1024, BINARY);
  return `${number} ${prefix}B${per}`;
}

export function count(value) {
  const [number, prefix] = scaled(value, 1000, DECIMAL);
  return prefix ? `${number} ${prefix}` : number;
}

export function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 1e-2 ? 1 : 0)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
