/** Who follows events, and who does not keep up. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type EventLine, Events } from "../../host/daemon/events.js";

const VBD = { domid: 1, devid: 51712 };

async function next(lines: AsyncGenerator<EventLine>): Promise<EventLine> {
  const { value, done } = await lines.next();
  assert.ok(!done);
  return value;
}

test("each who follows hears of all events since his first line, in their order", async () => {
  const events = new Events();
  const gone = new AbortController();
  events.tell(VBD, "attached", "nobody hears it");
  const [one, two] = [events.follow(gone.signal), events.follow(gone.signal)];
  assert.deepEqual(await next(one), {});
  events.tell(VBD, "refused", "first");
  assert.deepEqual(await next(two), {});
  const pending = next(two);
  events.tell(VBD, "resized", "second");
  const messages = ({ events = [] }: EventLine) => events.map(({ message }) => message);
  assert.deepEqual(messages(await pending), ["second"]);
  const [first] = (await next(one)).events ?? [];
  assert.match(first.time, /^\d{4}-\d\d-\d\dT.*Z$/);
  assert.deepEqual(
    { ...first, time: "" },
    { time: "", event: "refused", name: "xbdback1i51712", ...VBD, message: "first" },
  );
  const waits = next(one).catch(() => null);
  gone.abort();
  await waits;
  assert.equal((await two.next()).done, true);
});

test("who does not read costs a bounded list, and is told how many he has missed", async () => {
  const events = new Events();
  const lines = events.follow(new AbortController().signal);
  await next(lines);
  for (let i = 0; i < 1500; i++) events.tell(VBD, "failed", String(i));
  const { events: told = [], dropped } = await next(lines);
  assert.deepEqual([told.length, told[999].message, dropped], [1000, "999", 500]);
  events.tell(VBD, "failed", "more");
  assert.deepEqual((await next(lines)).events?.length, 1);
  await lines.return(undefined);
});

test("where nothing happens there is a sign of life", async () => {
  const lines = new Events().follow(new AbortController().signal);
  assert.deepEqual([await next(lines), await next(lines)], [{}, {}]);
  await lines.return(undefined);
});
