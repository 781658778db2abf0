// xenstore over the kernel's device, as in a driver domain: many requests at once, each with its own answer, and events.
import assert from "node:assert/strict";

process.env.XENSTORED_PATH = "/none";
const { check, connectXen, NODE, until } = await import("./xenstore-checks.mjs");
const xenstore = await connectXen();
// Of one length, and of others: the kernel holds one message.
const names = ["online", "params", "status", "device", "script", "config", "mode-a", "sector-size"];
const value = (name) => `value of ${name}`;

await check("writes at once write each its own key", async () => {
  await Promise.all(names.map((name) => xenstore.write(`${NODE}/${name}`, value(name))));
  for (const name of names) assert.equal(await xenstore.read(`${NODE}/${name}`), value(name));
});

await check("reads at once have each its own answer, between events", async () => {
  let events = 0;
  await xenstore.watch(NODE, () => events++);
  for (let round = 0; round < 15; round++) {
    const written = xenstore.write(`${NODE}/round`, String(round));
    const values = await Promise.all(names.map((name) => xenstore.read(`${NODE}/${name}`)));
    assert.deepEqual(values, names.map(value));
    await written;
  }
  assert.ok(events > 0, "no event meanwhile");
  const before = events;
  await xenstore.write(`${NODE}/round`, "the last");
  // It comes after the answer, and may be one event with those that waited.
  await until(() => events > before);
});

await check("transactions at once", async () => {
  const increment = async (t, key) => t.write(key, String(Number(await t.read(key)) + 1));
  await Promise.all(names.map((name) => xenstore.transaction((t) => increment(t, `${NODE}/count-${name}`))));
  for (const name of names) assert.equal(await xenstore.read(`${NODE}/count-${name}`), "1");
});

await xenstore.remove(NODE);
xenstore.close();
