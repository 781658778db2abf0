/** What a daemon notes of its disks is for the next one, which may be of an earlier release or of a later one. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ImageRecords } from "../../host/daemon/image-records.js";
import { usesOf } from "../../host/storage/disk.js";
import { directory, image } from "../storage/helpers.js";

const VBD = { domid: 1, devid: 51712 };

test("an earlier release finds an image's own files where it looks for them, and no others", async (t) => {
  const [place, path, base] = [directory(t), `qcow2:${image(t, 4096)}`, image(t, 4096)];
  const records = new ImageRecords(place, "vbd");
  records.write(VBD, path, false, await usesOf(path, false, [base]), [base]);
  const [own, below] = (await usesOf(path, false, [base])).map(({ identity }) => identity);
  const file = join(place, "vbd-xbdback1i51712");
  const { bases, ...earlier } = JSON.parse(readFileSync(file, "utf8"));
  assert.deepEqual(earlier, { format: 1, path, readOnly: false, identities: [own] });
  assert.deepEqual(bases, [{ path: base, identity: below }]);
  assert.deepEqual(records.read(VBD, path), {
    path,
    readOnly: false,
    identities: [own, below],
    bases: [base],
  });
  assert.equal((await records.differences()).size, 0);
  // As that one writes it.
  writeFileSync(file, JSON.stringify(earlier));
  assert.deepEqual(records.read(VBD, path), { path, readOnly: false, identities: [own] });
  assert.equal((await records.differences()).size, 0);
});
