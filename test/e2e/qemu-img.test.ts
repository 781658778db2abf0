/** qemu-img against the guest's disk. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { e2e, MIB, sha256 } from "./harness.js";

const SIZE = 48 * MIB;

/** Random data with a hole in it, and one sector alone in the hole. */
function content(): Buffer {
  const bytes = randomBytes(SIZE);
  bytes.fill(0, SIZE >> 2, SIZE >> 1);
  bytes.fill(0x5a, 16 * MIB, 16 * MIB + 512);
  return bytes;
}

e2e("qemu-img compares the guest's disk with the image", ["qemu-img"], async (scene) => {
  const bytes = content();
  const image = scene.image("disk.img", bytes);
  const same = scene.image("same.img", bytes);
  bytes[SIZE - 513] ^= 1;
  const other = scene.image("other.img", bytes);
  const compare = (path: string) => `qemu-img compare -f raw -F raw "$uri" ${path}`;
  (await scene.demo(image, "--run", compare(same))).expect(0).expectMatch(/^Images are identical\.$/m);
  (await scene.demo(image, "--run", compare(other)))
    .expect(1)
    .expectMatch(new RegExp(`^Content mismatch at offset ${SIZE - 1024}!$`, "m"));
});

e2e("qemu-img converts the guest's disk to qcow2, and back to another", ["qemu-img"], async (scene) => {
  const image = scene.image("disk.img", content());
  const qcow2 = scene.path("disk.qcow2");
  (await scene.demo(image, "--run", `qemu-img convert -f raw -O qcow2 "$uri" ${qcow2}`)).expect(0);
  await scene.run("qemu-img", "check", qcow2);
  await scene.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, qcow2);

  // Not empty, so that the zeros have to be written too.
  const second = scene.image("second.img", Buffer.alloc(SIZE, 0xee));
  const options = ["--abi", "x86_32", "--queues", "4", "--ring-page-order", "1"];
  const back = `qemu-img convert -n -f qcow2 -O raw ${qcow2} "$uri"`;
  (await scene.demo(second, ...options, "--run", back)).expect(0);
  assert.equal(await sha256(second), await sha256(image));
});
