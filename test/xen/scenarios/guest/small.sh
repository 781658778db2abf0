# A filesystem on xvda: written, unmounted, mounted again, the same.
within 300 test -b /dev/xvda
dmesg | grep blkfront: > /tmp/front; cat /tmp/front
check "blkfront has persistent and indirect requests" grep -q "persistent grants: enabled; indirect descriptors: enabled" /tmp/front
filesystem() {
  mount -t ext4 /dev/xvda /mnt || return 1
  [ "$(cat /mnt/from-dom0)" = hello ] || return 1
  i=0; while [ $i -lt 100 ]; do echo "$i $RANDOM" > /mnt/$i; i=$((i + 1)); done
  dd if=/dev/urandom of=/mnt/large bs=64k count=64 2>/dev/null
  sha256sum /mnt/large /mnt/?? > /tmp/sums
  umount /mnt; drop_caches
  mount -t ext4 /dev/xvda /mnt && sha256sum -c /tmp/sums
}
check "files are the same after a remount" filesystem
umount /mnt
exit 0
