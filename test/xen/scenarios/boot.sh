# Guests that boot from a disk of xbdback: GRUB in its PV and PVH (32-bit) builds, and Linux with its root on the disk.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1

# The disk: GRUB's configuration, a file to hash, and a Linux that GRUB can start with its root here.
root=/tmp/root
mkdir -p $root/boot/grub $root/{bin,dev,proc,sys,mnt,tmp,sbin}
cp /bin/busybox $root/bin/
for name in sh mount umount sha256sum cat echo poweroff dmesg grep sync dd; do ln -s busybox $root/bin/$name; done
dd if=/dev/urandom of=$root/data bs=64k count=16 2>/dev/null
sum=$(sha256sum < $root/data | cut -d' ' -f1)
cat > $root/sbin/init <<'X'
#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc
exec </dev/hvc0 >/dev/hvc0 2>&1
echo "MARK root $(sha256sum < /data | cut -d' ' -f1)"
echo written-by-the-guest > /written; sync
mount -o remount,ro /
poweroff -f
X
chmod 755 $root/sbin/init
# The guest's initramfs finds its root by what GRUB puts on Linux's command line.
mkdir -p /tmp/rd; cd /tmp/rd; busybox cpio -i < /xenlab/domu.cpio 2>/dev/null
cat > init <<'X'
#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for m in /mod/*.ko; do case $m in *xen-blkfront*) insmod $m & ;; *) insmod $m 2>/dev/null;; esac; done
until [ -b /dev/xvda ]; do usleep 100000; done
mount -t ext4 /dev/xvda /mnt; umount /proc /sys /dev
exec switch_root /mnt /sbin/init
X
find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > $root/boot/initrd
cd /root
gzip -1 < /xenlab/vmlinux > $root/boot/vmlinux.gz
cat > $root/boot/grub/grub.cfg <<'X'
echo "MARK grub $grub_platform $grub_cpu"
hashsum --hash sha256 /data
if [ "$grub_platform" = xen ]; then
  linux /boot/vmlinux.gz console=hvc0 quiet mitigations=off init_on_alloc=0 apparmor=0 audit=0
  initrd /boot/initrd
  boot
fi
echo "MARK grub-done"
halt
X
image /root/boot.img 96M
mke2fs -q -t ext2 -d $root /root/boot.img
cp --sparse=always /root/boot.img /root/pvh.img

# grub_guest NAME TYPE KERNEL IMAGE - creates it and keeps what its frontend published.
grub_guest() {
  printf '%s\n' "name='$1'" "type='$2'" "memory=256" "vcpus=1" "kernel='$3'" "on_poweroff='destroy'" \
    "on_crash='destroy'" "disk=['$(disk xvda "$4")']" > "/tmp/$1.cfg"
  xl create -q "/tmp/$1.cfg" || return 1
  local id; id=$(domid "$1")
  within 240 xenstore-read "/local/domain/$id/device/vbd/51712/ring-ref"
  xenstore-read "/local/domain/$id/device/vbd/51712/protocol" > "/tmp/$1.protocol"
}
seen() { console "$1" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | grep -q "$2"; }

say "GRUB, PV"
check "xl creates a PV guest of GRUB" grub_guest grub64 pv /usr/lib/grub-xen/grub-x86_64-xen.bin /root/boot.img
check "it speaks x86_64-abi" grep -qx x86_64-abi /tmp/grub64.protocol
check "it reads its configuration" within 240 seen grub64 "MARK grub xen x86_64"
check "a file's hash is right" within 240 seen grub64 "$sum  /data"
check "Linux boots by it, with its root on the disk" within 200 seen grub64 "MARK root $sum"
check "and ends" within 240 gone grub64
check "what it wrote is in the image" sh -c "debugfs -R 'cat /written' /root/boot.img 2>/dev/null | grep -q written-by-the-guest"

say "GRUB, PVH: 32 bits"
check "xl creates a PVH guest of GRUB" grub_guest grub32 pvh /usr/lib/grub-xen/grub-i386-xen_pvh.bin /root/pvh.img
check "it speaks x86_32-abi" grep -qx x86_32-abi /tmp/grub32.protocol
check "it reads its configuration" within 240 seen grub32 "MARK grub xen_pvh i386"
check "a file's hash is right" within 240 seen grub32 "$sum  /data"
within 240 seen grub32 "MARK grub-done"; xl destroy grub32 2>/dev/null; within 120 gone grub32

say "Linux, PVH"
image /root/a.img 64M; dd if=/dev/urandom of=/root/a.img bs=64k count=16 conv=notrunc 2>/dev/null
check "a PVH Linux runs to its end" domu --name pvh --type pvh --mem 256 --disk "$(disk xvda /root/a.img)" "$(guest_script hello)"
check "it has read its disk" within 60 seen pvh "MARK sum $(head -c 1M /root/a.img | sha256sum | cut -d' ' -f1)"
check "nothing is left of the guests" within 120 released
check "no grant is in use" no_grants_in_use
daemon_stop
finish
