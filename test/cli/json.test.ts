/** docs/json.md has each command that takes --json, and each field that one prints. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { program } from "../../host/cli/main.js";
import { root } from "../e2e/harness.js";
import { LIMIT, MIB, World } from "./world.js";

const documented = readFileSync(join(root, "docs/json.md"), "utf8");

function isDocumented(what: string, value: object): void {
  for (const name of Object.keys(value))
    assert.ok(documented.includes(`\`${name}\``), `docs/json.md has no ${name}, which ${what} prints`);
}

test("each command with --json is documented", () => {
  const commands = program().commands.filter(({ options }) => options.some(({ long }) => long === "--json"));
  assert.ok(commands.length > 15);
  for (const command of commands)
    assert.match(documented, new RegExp(`\`${command.name()}[ \`]`), `docs/json.md has no ${command.name()}`);
});

test("each field is documented", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img", MIB);
  for (const args of [
    ["check", `${image},raw,xvda,rw`],
    ["attach", "1", `${image},raw,xvda,rw`],
    ["limit", "1/xvda"],
    ["pause", "1/xvda"],
    ["unpause", "1/xvda"],
    ["status"],
    ["decode", "0100"],
  ])
    isDocumented(args[0], await world.json(...args));
  const guest = await world.guest();
  isDocumented("resize", await world.json("resize", "1/xvda"));
  const { rings } = await world.json<{ rings: object[] }>("show", "1/xvda");
  isDocumented("show", rings[0]);
  for (const args of [["stats"], ["stats", "--watch", "--count", "1"], ["top", "--count", "1"]]) {
    const told = await world.json<{ vbds: object[] }>(...args);
    isDocumented(args.join(" "), told);
    isDocumented(args.join(" "), told.vbds[0]);
  }
  guest.process.kill("SIGTERM");
  await guest.outcome();
  isDocumented("detach", await world.json("detach", "1/xvda"));
  (await world.run("guest", "--domid", "99", "--workload", "1")).expect(4);
  (await world.run("stats", "--count", "2")).expect(2).expectMatch(/--count needs --watch/, "stderr");
});
