/** What fails is tried again, and not too often. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Looker } from "../../host/vbd/looker.js";

/** A looker whose every look fails for `reason()`, or not where that is ""; the seconds at which it looked. */
function start(t: TestContext, reason: (second: number) => string) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const looks: number[] = [];
  let second = 0;
  const once = async (): Promise<void> => {
    looks.push(second);
    const why = reason(second);
    if (why !== "") throw new Error(why);
  };
  const looker = new Looker(
    once,
    () => {},
    () => {},
  );
  const pass = async (seconds: number): Promise<void> => {
    for (const end = second + seconds; second < end; ) {
      second++;
      t.mock.timers.tick(1000);
      await looker.settled();
    }
  };
  return { looker, looks, pass };
}

test("a look that fails for the same reason is repeated after 1, 2, 4, then every 8 seconds", async (t) => {
  const { looker, looks, pass } = start(t, () => "missing");
  looker.look();
  await looker.settled();
  await pass(31);
  assert.deepEqual(looks, [0, 1, 3, 7, 15, 23, 31]);
  // Somebody has changed something: at once, and it is not forgotten when the last time was.
  looker.look();
  await looker.settled();
  await pass(8);
  assert.deepEqual(looks.slice(7), [31, 39]);
  looker.stop();
  await pass(60);
  assert.equal(looks.length, 9);
});

test("another reason begins anew, and success ends it", async (t) => {
  const { looker, looks, pass } = start(t, (second) => (second < 7 ? "missing" : second < 10 ? "busy" : ""));
  looker.look();
  await looker.settled();
  await pass(60);
  assert.deepEqual(looks, [0, 1, 3, 7, 8, 10]);
});
