/** The daemon's log in each of its formats. */
import assert from "node:assert/strict";
import { closeSync, fstatSync, openSync } from "node:fs";
import { test } from "node:test";
import { isJournal, type LogFormat, type LogLevel, makeLog } from "../../host/daemon/log.js";
import { attachMessage } from "../../host/vbd/diagnostics.js";
import type { LogContext } from "../../host/vbd/vbd-log.js";

function written(format: LogFormat, line: string, context?: LogContext, isTTY = false): string {
  let text = "";
  const stream = { isTTY, write: (part: string) => (text += part) };
  makeLog(format, stream as unknown as NodeJS.WriteStream)(line, context);
  return text.replace(/[0-9-]{10}T[0-9:.]{12}Z/, "TIME").replace(/^[0-9:]{8}/, "CLOCK");
}

const vbd = { domid: 1, devid: 51712 };
const attach = attachMessage("/disk.img", 512, 1);

test("auto is pretty on a terminal and logfmt elsewhere", () => {
  assert.equal(
    written("auto", attach, { vbd }),
    'time=TIME level=info domid=1 devid=51712 msg="xbd backend: attach device /disk.img (size 512) for domain 1"\n',
  );
  assert.equal(written("auto", attach, { vbd }, true), `CLOCK info    xbdback1i51712  ${attach}\n`);
});

test("the name stands once; what was suppressed is counted", () => {
  const context = { vbd, level: "error", suppressed: 7 } as const;
  const line = "xbdback1i51712: read failed: EIO (7 similar messages suppressed)";
  assert.equal(
    written("logfmt", line, context),
    'time=TIME level=error domid=1 devid=51712 suppressed=7 msg="read failed: EIO (7 similar messages suppressed)"\n',
  );
  assert.deepEqual(JSON.parse(written("json", line, context)), {
    time: "TIME",
    level: "error",
    domid: 1,
    devid: 51712,
    suppressed: 7,
    msg: "read failed: EIO (7 similar messages suppressed)",
  });
  assert.equal(written("plain", line, context), `${line}\n`);
  const coloured = written("pretty", line, context, true);
  assert.ok(coloured.startsWith("CLOCK \x1b[31merror   xbdback1i51712  read failed"), coloured);
});

test("what a guest wrote moves no terminal's cursor and makes no second line", () => {
  for (const format of ["pretty", "logfmt", "json", "plain"] as const) {
    const text = written(format, "xbdback1i51712: \x1b[2J\nmsg=forged \u202e", { vbd });
    const harmful = [...text.slice(0, -1)].filter((one) => "\x1b\n\u202e".includes(one));
    assert.deepEqual(harmful, [], format);
  }
});

function levels(lowest: LogLevel, journal: boolean): string[] {
  const lines: string[] = [];
  const stream = { isTTY: false, write: (line: string) => lines.push(line) };
  const options = { journal, lowest: () => lowest };
  const log = makeLog("plain", stream as unknown as NodeJS.WriteStream, options);
  log("a");
  log("b", { level: "warning" });
  log("c", { level: "error" });
  return lines;
}

test("the journal gets a priority before each line, a file gets none", () => {
  assert.deepEqual(levels("info", true), ["<6>a\n", "<4>b\n", "<3>c\n"]);
  assert.deepEqual(levels("info", false), ["a\n", "b\n", "c\n"]);
});

test("lines below the lowest level are not written", () => {
  assert.deepEqual(levels("warning", false), ["b\n", "c\n"]);
  assert.deepEqual(levels("error", false), ["c\n"]);
});

test("the journal is where JOURNAL_STREAM says, unless the stream was redirected since", () => {
  const fd = openSync("/dev/null", "w");
  const { dev, ino } = fstatSync(fd, { bigint: true });
  closeSync(fd);
  const same = openSync("/dev/null", "w");
  assert.equal(isJournal(same, { JOURNAL_STREAM: `${dev}:${ino}` }), true);
  assert.equal(isJournal(same, { JOURNAL_STREAM: `${dev}:${ino + 1n}` }), false);
  assert.equal(isJournal(same, {}), false);
  closeSync(same);
});
