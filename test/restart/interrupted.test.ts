/** The torture itself: a signal ends it, and all that it has started. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { e2e, eventually } from "../e2e/harness.js";

const torture = fileURLToPath(new URL("./torture.js", import.meta.url));

for (const disk of ["vhost-user", "qcow2"]) {
  e2e(`the torture of a ${disk} disk is interrupted`, ["qemu-storage-daemon", "qemu-img"], async (scene) => {
    const running = scene.start(process.execPath, [torture, "--disk", disk, "--kills", "1000"]);
    const parts = ["qemu-storage-daemon", "serve", "guest.js"];
    const plays = (part: string): boolean =>
      scene.processes().some(({ args }) => args.some((arg) => arg.endsWith(part)));
    await eventually(() => parts.every(plays), "backend, guest and server run");
    running.process.kill("SIGTERM");
    const outcome = (await running.outcome()).expect(128 + 15);
    outcome.expectMatch(/interrupted by SIGTERM/, "stderr");
    await eventually(() => scene.processes().length === 0, "nothing runs on");
    assert.deepEqual(readdirSync(scene.path("tmp")), []);
  });
}
