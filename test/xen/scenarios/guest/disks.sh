# xvda 64 MiB, xvdb a filesystem that may not be written, xvdc 160 MiB for swap, xvdd 64 MiB.
for name in xvda xvdb xvdc xvdd; do within 300 test -b /dev/$name; done
check "four disks are there" test -b /dev/xvda -a -b /dev/xvdb -a -b /dev/xvdc -a -b /dev/xvdd
dmesg | grep blkfront: > /tmp/front; cat /tmp/front
check "blkfront has persistent and indirect requests" grep -q "persistent grants: enabled; indirect descriptors: enabled" /tmp/front
check "a disk has its image's size" test "$(size_of xvda)" = 67108864

say "a filesystem with thousands of files"
files() {
  mkdir -p /mnt/many/$1
  i=0; while [ $i -lt 500 ]; do echo "$1 $i $RANDOM" > /mnt/many/$1/$i; i=$((i + 1)); done
}
filesystem() {
  mke2fs -q /dev/xvda 2>&1 && mount -t ext4 /dev/xvda /mnt || return 1
  for part in 1 2; do files $part; done
  dd if=/dev/urandom of=/mnt/large bs=64k count=64 2>/dev/null
  find /mnt/many /mnt/large -type f | sort | xargs sha256sum > /tmp/sums
  sync; umount /mnt; drop_caches
  mount -t ext4 /dev/xvda /mnt || return 1
  sha256sum -c /tmp/sums > /tmp/verified || { grep -v ": OK$" /tmp/verified; return 1; }
  [ "$(wc -l < /tmp/verified)" = 1001 ]
}
check "1001 files are the same after a remount" filesystem

say "the mounted disk grows"
echo "MARK mounted"
grown() { [ "$(size_of xvda)" = 100663296 ]; }
check "the guest sees a mounted disk grow" within 300 grown
check "its new end can be read and written" sh -c '
  dd if=/dev/urandom of=/tmp/end bs=64k count=1 2>/dev/null
  dd if=/tmp/end of=/dev/xvda bs=64k seek=1535 oflag=direct 2>/dev/null
  dd if=/dev/xvda bs=64k skip=1535 iflag=direct 2>/dev/null | cmp - /tmp/end'
check "its files are as before" sh -c 'sha256sum -c /tmp/sums > /tmp/verified'
umount /mnt

say "the disk that may not be written"
check "it says so" test "$(blockdev --getro /dev/xvdb)" = 1
check "it can be read" sh -c 'mount -t ext4 -o ro /dev/xvdb /mnt && [ "$(cat /mnt/from-dom0)" = hello ] && umount /mnt'
check "it cannot be written" not dd if=/dev/zero of=/dev/xvdb bs=4k count=1 conv=fsync

say "swap"
swap() {
  mkswap /dev/xvdc && swapon /dev/xvdc || return 1
  mkdir -p /tmp/fill && mount -t tmpfs -o size=400m fill /tmp/fill
  i=0; while [ $i -lt 7 ]; do
    yes "block $i of what must be swapped out" | head -c 30000000 > /tmp/fill/$i; i=$((i + 1))
  done
  used=$(awk '$1 == "/dev/xvdc" { print $4 }' /proc/swaps)
  echo "swapped out: $used KiB"
  i=0; while [ $i -lt 7 ]; do
    yes "block $i of what must be swapped out" | head -c 30000000 | cmp - /tmp/fill/$i || return 1; i=$((i + 1))
  done
  umount /tmp/fill; swapoff /dev/xvdc
  [ "$used" -gt 10000 ]
}
check "memory that was swapped out comes back as it was" swap

say "discard"
dd if=/dev/urandom of=/dev/xvdd bs=64k count=768 conv=fsync 2>/dev/null
dd if=/dev/xvdd bs=1M count=16 2>/dev/null | sha256sum > /tmp/kept
echo "MARK written"
within 300 test -b /dev/xvde    # dom0 has looked
check "the frontend discards" blkdiscard -o $((16 * 1048576)) -l $((32 * 1048576)) /dev/xvdd
drop_caches
check "what was discarded reads as zeros" sh -c 'dd if=/dev/xvdd bs=1M skip=16 count=32 2>/dev/null | cmp -n 33554432 - /dev/zero'
check "what was not is still there" sh -c 'dd if=/dev/xvdd bs=1M count=16 2>/dev/null | sha256sum | cmp - /tmp/kept'
exit 0
