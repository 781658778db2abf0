/** decode and replay, which need no daemon. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { decodeRequest } from "../../host/cli/request-bytes.js";
import { encodeSession, type Session } from "../../host/session/index.js";
import { type Outcome, root, Scene } from "../e2e/harness.js";
import { LIMIT } from "./world.js";

const run = (t: TestContext, ...args: string[]): Promise<Outcome> =>
  new Scene(t).start(process.execPath, [join(root, "bin/xbdback.mjs"), ...args]).outcome();

const WRITE = "01 01 00ca 00000000 0700000000000000 0008000000000000 2a000000 00 07";

test("a request's bytes in words", LIMIT, async (t) => {
  const told = (await run(t, "decode", WRITE)).expect(0);
  for (const line of [
    /^operation +WRITE$/m,
    /^id +7$/m,
    /^sector +2048$/m,
    /^segment 0 +gref 42, sectors 0 to 7$/m,
  ])
    told.expectMatch(line);
  assert.ok(!told.stdout.includes("fault"));
  const json = JSON.parse((await run(t, "decode", "0500000000000000", "--json")).expect(0).stdout);
  assert.equal(json.operation, "DISCARD");
  (await run(t, "decode", "0g")).expect(2);
});

test("both layouts, and what is wrong with a request", () => {
  const bytes = new Uint8Array(108);
  bytes.set([6, 1, 3, 0]);
  bytes[4] = 9;
  bytes[12] = 16;
  bytes[24] = 77;
  const { operation, id, sector, nrSegments, indirectGrefs, faults } = decodeRequest(bytes, "x86_32");
  assert.deepEqual(
    [operation, id, sector, nrSegments, indirectGrefs, faults],
    ["INDIRECT WRITE", "9", "16", 3, [77], []],
  );
  bytes.set([6, 3]);
  assert.deepEqual(decodeRequest(bytes, "x86_32").faults, ["only READ and WRITE may be INDIRECT"]);
  assert.deepEqual(decodeRequest(Uint8Array.of(0, 12), "x86_64").faults, ["12 segments, of 11 at most"]);
  assert.deepEqual(decodeRequest(Uint8Array.of(0, 0), "x86_64").faults, ["no segments"]);
  assert.deepEqual(decodeRequest(Uint8Array.of(77), "x86_64").faults, ["operation 77 is not known"]);
});

test("a session is played; another file is none", LIMIT, async (t) => {
  const header: Session["header"] = {
    ...{
      abi: 0,
      ringPages: 1,
      features: 2,
      sectorSize: 512,
      spoilt: 0,
      maxIndirect: 0,
      maxPersistent: 0,
      batch: 64,
    },
    ...{ domid: 1, maxIo: 65536, sectors: 1000, start: 0, ahead: 0, passSegments: 64, passBytes: 65536 },
  };
  const entry = new Uint8Array(112);
  // A flush of id 5.
  entry.set([3, 0, 0, 0, 0, 0, 0, 0, 5]);
  const scene = new Scene(t);
  const session = {
    header,
    records: [{ kind: "request", entry }, { kind: "push" }, { kind: "step" }],
  } as Session;
  const file = scene.image("flush.session", encodeSession(session));
  const command = join(root, "bin/xbdback.mjs");
  const played = (await scene.start(process.execPath, [command, "replay", file]).outcome()).expect(0);
  played.expectMatch(/^attach 0$/m);
  played.expectMatch(/^response 5 3 0$/m);
  const json = (await scene.start(process.execPath, [command, "replay", file, "--json"]).outcome()).expect(0);
  assert.equal(JSON.parse(json.stdout).violation, null);
  const none = scene.image("none.session", new Uint8Array(64));
  const refused = (await scene.start(process.execPath, [command, "replay", none]).outcome()).expect(1);
  refused.expectMatch(/none\.session is not a session file/, "stderr");
  const absent = (
    await scene.start(process.execPath, [command, "replay", "absent.session"]).outcome()
  ).expect(1);
  absent.expectMatch(/^xbdback: absent\.session: no such file or directory$/m, "stderr");
});
