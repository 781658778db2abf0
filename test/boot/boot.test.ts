/**
 * A Linux system boots from a qcow2 image: SeaBIOS, GRUB, a kernel and ext4 in an emulated machine, whose virtio disk is the
 * NBD server in front of a guest's blkfront. Behind that are the ring, the daemon and its qemu-storage-daemon.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { World } from "../cli/world.js";
import { e2e, eventually, MIB, type Running } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { makeDisk, PARTITION_AT, PROGRAMS } from "./disk.js";
import { findKernel } from "./kernel.js";

const BOOT_SECONDS = 120;

/** The first process of the system. In its first life it writes and resets the machine; in its second it looks. */
const INIT = `#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -o remount,rw /
sum() { sha256sum < $1 | cut -d' ' -f1; }
echo "DATA $(sum /data)"
if [ ! -e /written.sum ]; then
  dd if=/dev/urandom of=/written bs=64k count=64 2>/dev/null
  cp /written /trimmed
  sum /written > /written.sum
  sync
  # As the kernel prints it: what the terminal still has when the machine is reset is lost.
  echo "<1>WRITTEN $(cat /written.sum)" > /dev/kmsg
  echo b > /proc/sysrq-trigger
fi
echo "FOUND $(sum /written) $(cat /written.sum)"
rm /trimmed
sync
fstrim -v /
echo "BUSY"
for i in $(seq 1 30); do
  dd if=/written of=/busy.$i bs=64k count=4 conv=fsync 2>/dev/null
  usleep 50000
done
cat /busy.* > /busy
sync
echo 3 > /proc/sys/vm/drop_caches
echo "RESULT $(sum /busy)"
dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)'
mount -o remount,ro / && echo "CLEAN"
poweroff -f
`;

function startMachine(world: World, uri: string): Running {
  return world.scene.start("qemu-system-x86_64", [
    ...["-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "256"],
    ...["-nodefaults", "-display", "none", "-serial", "stdio"],
    ...["-drive", `file=${uri},format=raw,if=none,id=disk,discard=unmap`],
    ...["-device", "virtio-blk-pci,drive=disk,bootindex=0"],
  ]);
}

const hash = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");

// A machine that cannot boot it downloads no kernel.
const kernel = absent(...PROGRAMS) || findKernel();

e2e(
  "Linux boots from a qcow2 image, writes, is reset, finds what it has synced, and outlives a killed daemon",
  PROGRAMS,
  async (_, t) => {
    assert.ok(typeof kernel === "object");
    const world = await World.start(t);
    const { scene } = world;
    const data = randomBytes(MIB);
    const raw = await makeDisk(scene, kernel, INIT, data);
    const image = scene.path("boot.qcow2");
    await scene.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image);
    (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
    const socket = scene.path("guest.sock");
    const guest = world.start("guest", "--domid", "1", "--nbd", socket);
    await guest.until(/"listening"/);

    const machine = startMachine(world, `nbd+unix:///?socket=${socket}`);
    const [, written] = await machine.until(/WRITTEN (\w{64})/, BOOT_SECONDS);
    const found = await machine.until(/FOUND (\w{64}) (\w{64})/, BOOT_SECONDS);
    assert.deepEqual(found.slice(1), [written, written]);
    const read = [...machine.stdout.matchAll(/DATA (\w+)/g)].map(([, sum]) => sum);
    assert.deepEqual(read, [hash(data), hash(data)], "both times");
    const trimmed = await machine.until(/: (\d+) bytes trimmed/, BOOT_SECONDS);
    assert.ok(Number(trimmed[1]) > MIB, trimmed[0]);

    await machine.until(/BUSY/, BOOT_SECONDS);
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    await world.serveAgain();
    await eventually(() => /taken over/.test(world.daemon.stderr), `taken over: ${world.daemon.stderr}`);
    const outcome = (await machine.outcome(BOOT_SECONDS)).expect(0);
    const [, said] = outcome.expectMatch(/RESULT (\w{64})\s+CLEAN/);

    guest.process.kill("SIGTERM");
    (await guest.outcome()).expect(0);
    (await world.run("detach", "1/xvda")).expect(0);
    await scene.run("qemu-img", "check", "-f", "qcow2", image);
    await scene.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw);
    const partition = `${raw}?offset=${PARTITION_AT}`;
    await scene.run("e2fsck", "-fn", partition);
    const busy = scene.path("busy");
    await scene.run("debugfs", "-R", `dump /busy ${busy}`, partition);
    await scene.run("sh", "-c", `echo '${said}  ${busy}' | sha256sum -c`);
  },
  typeof kernel === "string" && kernel,
);
