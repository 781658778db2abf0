/** `xbdback upgrade` of a systemd service: systemd restarts the daemon, so the disks are looked at before. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { refuseLostImages } from "../../host/cli/commands/upgrade.js";

test("an image that the next daemon would not find stops the upgrade, one that is kept does not", () => {
  const disk = { name: "xbdback1i51712", device: "/disk.qcow2" };
  refuseLostImages([
    { ...disk, imageState: "ok", imageKept: false },
    { ...disk, imageState: "deleted", imageKept: true },
    { ...disk, imageState: null, imageKept: false },
  ]);
  for (const imageState of ["deleted", "replaced"] as const)
    assert.throws(
      () => refuseLostImages([{ ...disk, imageState, imageKept: false }]),
      new RegExp(
        `^Error: xbdback1i51712: /disk.qcow2: ${imageState}.* will not find: .*; the running daemon has not been stopped$`,
      ),
    );
});
