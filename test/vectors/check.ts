/** Whether a vector's log and responses are as it expects. */
import { isExpectation, type Vector } from "./document.js";
import { Player } from "./player.js";

/** The lines of both, common ones with a space in front, expected ones with a minus, found ones with a plus. */
function diff(expected: readonly string[], found: readonly string[]): string {
  const common = Array.from({ length: expected.length + 1 }, () => new Uint16Array(found.length + 1));
  for (let e = expected.length - 1; e >= 0; e--) {
    for (let f = found.length - 1; f >= 0; f--) {
      common[e][f] =
        expected[e] === found[f] ? common[e + 1][f + 1] + 1 : Math.max(common[e + 1][f], common[e][f + 1]);
    }
  }
  const lines: string[] = [];
  for (let e = 0, f = 0; e < expected.length || f < found.length; ) {
    if (e < expected.length && expected[e] === found[f]) {
      lines.push(`  ${expected[e++]}`);
      f++;
    } else if (f >= found.length || (e < expected.length && common[e + 1][f] >= common[e][f + 1])) {
      lines.push(`- ${expected[e++]}`);
    } else lines.push(`+ ${found[f++]}`);
  }
  return lines.join("\n");
}

/** Plays a vector, on `module` (default: the built core). Throws an Error that names the line which is not as expected. */
export function checkVector({ file, blocks }: Vector, module?: WebAssembly.Module): void {
  const player = new Player(module);
  let expectations = 0;
  let logs = 0;
  for (const block of blocks) {
    if (!isExpectation(block)) {
      player.play(block);
      continue;
    }
    expectations++;
    if (block.kind === "log") logs++;
    const found = block.kind === "log" ? player.takeLog() : player.responses;
    const at = block.lines.findIndex((line, i) => line !== found[i]);
    if (at < 0 && found.length === block.lines.length) continue;
    const line = block.line + (at < 0 ? block.lines.length : at);
    const where = `test/vectors/${file}:${line}: expected (-), found (+)`;
    const message = `${where}\n\n${diff(block.lines, found)}\n`;
    throw Object.assign(new Error(message), { stack: message });
  }
  if (expectations === 0) throw new Error("the vector has no log block, so it expects nothing");
  if (logs === 0) return;
  const rest = player.takeLog();
  if (rest.length > 0)
    throw new Error(`no log block follows the last host block; found\n\n${rest.join("\n")}\n`);
}
