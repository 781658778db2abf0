/** A vhost-user server that lies, stalls, dies or sends rubbish costs its own disk an error, and nobody anything else. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { random } from "../../host/guest/workload.js";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { until } from "../vbd/harness.js";
import { discard, flush, LIMIT, type Outcome, read, scatter, write } from "./helpers.js";
import { capricious, LIES } from "./vhost-lies.js";
import { type Script, vhostServer } from "./vhost-server.js";

const MIB = 1 << 20;

async function open(t: TestContext, script: Script, silenceMs: number, reconnectMs = 60_000) {
  const lines: string[] = [];
  const { target, path, servers } = await vhostServer(t, { disk: Buffer.alloc(MIB), ...script });
  const warn = (line: string): void => void lines.push(line.replace(`${target}: `, ""));
  const device = await openVhostUser(target, path, {
    readOnly: false,
    warn,
    patience: { silenceMs, reconnectMs },
  });
  return { device, lines, servers };
}

async function closes(device: BlockDevice): Promise<void> {
  await device.close();
  assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
}

for (const [name, { costs, says, tell, waits }] of Object.entries(LIES)) {
  test(`${name}: costs the ${costs}`, LIMIT, async (t) => {
    let lying = true;
    const { device, lines } = await open(
      t,
      {
        serves(asked, server) {
          if (!lying || asked.sector !== 8) return false;
          lying = false;
          tell(asked, server, random(1));
          return true;
        },
      },
      waits ? 500 : 60_000,
    );
    assert.equal((await read(device, 0, scatter(4096))).result, Result.Success);
    const outcomes = await Promise.all([
      read(device, 4096, scatter(4096)),
      ...Array.from({ length: 20 }, (_, i) => read(device, i * 512 + 8192, scatter(512))),
    ]);
    if (name === "a disk without end")
      await until("its size is asked for", () => device.refreshSize().then(() => lines.length > 0));
    const after = await write(device, 4096, scatter(4096));
    if (costs !== "request") await until("it is said", () => lines.length > 0);
    const heard = [...outcomes, after].map((outcome) => outcome.error?.message ?? "").concat(lines);
    assert.ok(
      heard.some((line) => says.test(line)),
      heard.join("\n"),
    );
    if (costs === "request") {
      assert.notEqual(outcomes[0].result, Result.Success);
      assert.ok(outcomes.slice(1).every(({ result }) => result === Result.Success));
      assert.equal(after.result, Result.Success);
      assert.deepEqual(lines, []);
    } else if (lines.at(-1)?.startsWith("connected") || !costs.includes("disk")) {
      assert.ok(costs.includes("connection"));
      assert.ok(outcomes.every(({ result }) => result === Result.Success));
      assert.equal(after.result, Result.Success);
      assert.match(lines.at(-2) ?? "", /; [0-9]+ requests wait for another connection$/);
    } else {
      assert.ok(costs.includes("disk"));
      const later = await write(device, 0, scatter(512));
      assert.equal(later.result, Result.Failure);
      assert.match(lines.join("\n"), /^[^\n]*; all I\/O fails until the disk is attached again$/);
      assert.equal((await flush(device)).result, Result.Failure);
    }
    await closes(device);
  });
}

test("a flush that the server fails has failed for good", LIMIT, async (t) => {
  let fails = true;
  const { device } = await open(
    t,
    {
      serves(asked, server) {
        if (asked.type !== 4 || !fails) return false;
        fails = false;
        server.answer(asked, 1);
        return true;
      },
    },
    10_000,
  );
  assert.equal((await flush(device)).result, Result.Failure);
  for (const { result, error } of [await write(device, 0, scatter(512)), await flush(device)]) {
    assert.equal(result, Result.Failure);
    assert.match(error?.message ?? "", /written data may be lost; nothing more is written/);
  }
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  await closes(device);
});

test("whatever a server does, every operation ends, once, and the disk can be closed", LIMIT, async (t) => {
  const first = Number(process.env["XBDBACK_SEED"] ?? 1);
  for (let seed = first; seed < first + 12; seed++) {
    const next = random(seed);
    const { device } = await open(t, { serves: capricious(next) }, 50, 400);
    const operations: Promise<Outcome>[] = [];
    for (let i = 0; i < 200; i++) {
      const at = (next() % 1024) * 512;
      const data = (): ReturnType<typeof scatter> => scatter(512, 512 * (1 + (next() % 200)));
      const kind = next() % 8;
      if (kind === 0) operations.push(flush(device));
      else if (kind === 1) operations.push(discard(device, at, 4096));
      else if (kind < 5) operations.push(write(device, at, data()));
      else operations.push(read(device, at, data()));
      if (next() % 8 === 0) await operations.at(-1);
    }
    await Promise.all(operations).catch((error: Error) => assert.fail(`seed ${seed}: ${error.message}`));
    await device.refreshSize();
    await closes(device);
  }
});
