// The port on a real xenstored: transactions of two connections that conflict, the order of events, long directories.
import assert from "node:assert/strict";
import { check, connectXen, NODE, until } from "./xenstore-checks.mjs";

const one = await connectXen();
const other = await connectXen();

await check("a transaction that another client's write invalidates is run again", async () => {
  await one.write(`${NODE}/key`, "0");
  let attempts = 0;
  await one.transaction(async (t) => {
    attempts++;
    const value = Number(await t.read(`${NODE}/key`));
    if (attempts === 1) await other.write(`${NODE}/key`, "10");
    await t.write(`${NODE}/key`, String(value + 1));
  });
  assert.equal(await one.read(`${NODE}/key`), "11");
  assert.equal(attempts, 2);
});

await check("40 increments of two clients at once are all counted", async () => {
  await one.write(`${NODE}/count`, "0");
  const increment = (t) =>
    t.read(`${NODE}/count`).then((value) => t.write(`${NODE}/count`, String(Number(value) + 1)));
  const clients = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? one : other));
  await Promise.all(clients.map((client) => client.transaction(increment)));
  assert.equal(await one.read(`${NODE}/count`), "40");
});

await check("a transaction that only looks is not disturbed, and sees one state", async () => {
  await one.write(`${NODE}/a`, "1");
  await one.transaction(async (t) => {
    const before = await t.read(`${NODE}/a`);
    await other.write(`${NODE}/unrelated`, "1");
    assert.equal(await t.read(`${NODE}/a`), before);
  });
});

await check("a body that throws leaves nothing", async () => {
  const failed = one.transaction(async (t) => {
    await t.write(`${NODE}/never`, "1");
    throw new Error("no");
  });
  await assert.rejects(failed, /no/);
  assert.equal(await one.read(`${NODE}/never`), null);
});

await check(
  "events come in the order of the writes, a transaction's at its end, the first one for the watch itself",
  async () => {
    const seen = [];
    const root = `${NODE}/watched`;
    await one.mkdir(root);
    const watch = await one.watch(root, (path) => seen.push(path.slice(root.length)));
    await until(() => seen.length === 1);
    assert.deepEqual(seen, [""]);
    for (const name of ["c", "a", "b"]) await other.write(`${root}/${name}`, "1");
    await until(() => seen.length === 4);
    assert.deepEqual(seen.slice(1), ["/c", "/a", "/b"]);
    await other.transaction(async (t) => {
      await t.write(`${root}/a`, "2");
      await one.write(`${root}/outside`, "1");
      await until(() => seen.length === 5);
      await t.write(`${root}/c`, "2");
    });
    await until(() => seen.length === 7);
    assert.deepEqual(seen.slice(4), ["/outside", "/a", "/c"]);
    await other.remove(root);
    await until(() => seen.at(-1) === "");
    await watch.remove();
  },
);

await check("a write has been done when its answer is here, whoever looks", async () => {
  for (let round = 0; round < 20; round++) {
    await one.write(`${NODE}/round`, String(round));
    assert.equal(await other.read(`${NODE}/round`), String(round));
  }
});

await check("a directory that is longer than a message is read in full", async () => {
  const names = Array.from(
    { length: 150 },
    (_, i) => `a-name-that-is-forty-characters-long-${String(i).padStart(4, "0")}`,
  );
  await Promise.all(names.map((name) => one.write(`${NODE}/long/${name}`, "")));
  assert.deepEqual((await one.directory(`${NODE}/long`)).sort(), names);
});

await check("missing nodes, their children and their removal", async () => {
  assert.equal(await one.read(`${NODE}/none/at/all`), null);
  assert.equal(await one.directory(`${NODE}/none`), null);
  assert.equal(await one.permissions(`${NODE}/none`), null);
  await one.remove(`${NODE}/none/at/all`);
});

await check("which domains there are", async () => {
  assert.equal(await one.isDomainIntroduced(0), true);
  assert.equal(await one.isDomainIntroduced(4000), false);
});

await one.remove(NODE);
one.close();
other.close();
