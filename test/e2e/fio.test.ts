/** fio writes, discards and verifies random ranges of the guest's disk, however the guest connects. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { allCombinations, type Combination, optionsOf, sample } from "./combinations.js";
import { e2e, full, MIB, type Outcome } from "./harness.js";

const WRITTEN = 24 * MIB;
const DISCARDED = 8 * MIB;
const SAMPLE = 5;
/** Another seed gives another sample, and other operations. */
const seed = Number(process.env["XBDBACK_SEED"] ?? 1);
const noEngine = spawnSync("fio", ["--enghelp=nbd"]).status !== 0 && "this fio has no nbd engine";

/** Sectors of an operation, and how many of 100 operations have so many: from one to 1 MiB. */
const SECTORS = { 1: 20, 3: 10, 7: 10, 8: 25, 40: 15, 87: 8, 128: 6, 600: 3, 2048: 3 };
const sizes = Object.entries(SECTORS).map(([sectors, percent]) => `${Number(sectors) * 512}/${percent}`);

const verified = "--verify=crc32c --verify_fatal=1 --verify_state_save=0";
/**
 * Two jobs at once, on connections of their own, then one that overwrites what the first wrote. Not fio's loops: with
 * reads among the writes it verifies against the wrong loop, on a plain file too (fio 3.33).
 */
const jobs = [
  'fio --ioengine=nbd --thread --uri="$uri" --iodepth=32 --output=fio.txt',
  `--bssplit=${sizes.join(":")} --blockalign=512`,
  `--name=mixed --rw=randrw --rwmixread=40 --size=${WRITTEN} --randseed=${seed} ${verified}`,
  `--name=discard --rw=randtrim --offset=${WRITTEN} --size=${DISCARDED} --randseed=${seed + 1}`,
  `--name=over --stonewall --rw=randwrite --size=${WRITTEN} --randseed=${seed + 2} ${verified} --verify_backlog=64`,
].join(" ");

/** Throws unless the guest connected like this. */
function checkConnected(outcome: Outcome, { abi, grants, ringPageOrder, queues }: Combination): void {
  const protocol = abi === "native" ? "native" : `${abi}-abi`;
  const connected = outcome.stderr.match(/^xbd backend 0xca00 for domain 1 using .*$/gm) ?? [];
  assert.equal(connected.length, queues, outcome.story);
  for (const line of connected) assert.ok(line.endsWith(`, protocol ${protocol}`), outcome.story);
  outcome.expectMatch(new RegExp(` of ${32 << ringPageOrder} requests`), "stderr");
  outcome.expectMatch(grants === "plain" ? /, 11 segments,/ : /segments indirect,/, "stderr");
  outcome.expectMatch(
    grants === "persistent" ? /, persistent grants$/m : /, a grant for each page$/m,
    "stderr",
  );
}

for (const combination of full ? allCombinations() : sample(SAMPLE, seed)) {
  const options = optionsOf(combination);
  e2e(`fio, seed ${seed}: ${options.join(" ")}`, ["fio"], async (scene, t) => {
    if (noEngine) return t.skip(noEngine);
    const image = scene.image("disk.img", Buffer.alloc(WRITTEN + DISCARDED, 0xee));
    const outcome = await scene.demo(image, ...options, "--run", `${jobs} || { cat fio.txt; exit 1; }`);
    checkConnected(outcome.expect(0), combination);
    const zeros = Buffer.alloc(DISCARDED);
    assert.ok(readFileSync(image).subarray(WRITTEN).equals(zeros), "what was discarded is zeros");
  });
}

e2e("fio finds a sector that was spoilt", ["fio"], async (scene, t) => {
  if (noEngine) return t.skip(noEngine);
  const image = scene.image("disk.img", 4 * MIB);
  const job = `fio --ioengine=nbd --uri="$uri" --name=t --rw=randwrite --bs=4k --size=4m ${verified}`;
  (await scene.demo(image, "--run", `${job} --do_verify=0`)).expect(0);
  (await scene.demo(image, "--run", `${job} --verify_only`)).expect(0);
  const spoil = `printf x | dd of=${image} bs=1 seek=${3 * MIB + 1000} conv=notrunc`;
  (await scene.demo(image, "--run", `${spoil} && ${job} --verify_only`))
    .expect(1)
    .expectMatch(new RegExp(`crc32c: verify failed at .* offset ${3 * MIB},`), "stderr");
});

test("a sample of the combinations has every value in it", () => {
  for (let i = 0; i < 200; i++) {
    const chosen = sample(SAMPLE, i);
    assert.equal(chosen.length, SAMPLE);
    const values = new Set(chosen.flatMap((combination) => Object.entries(combination).flat()));
    for (const value of allCombinations().flatMap((combination) => Object.values(combination))) {
      assert.ok(values.has(value), `seed ${i}: ${value}`);
    }
  }
});
