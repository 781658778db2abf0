# A driver domain: xvda has its root, and there /share/guest/driver-root.sh, which is all that it runs.
within 120 test -b /dev/xvda
mount -t ext4 -o noatime /dev/xvda /mnt
for name in dev proc sys; do mount -o bind /$name /mnt/$name; done
for name in run tmp; do mount -t tmpfs $name /mnt/$name; done
ifconfig lo up
exec chroot /mnt /bin/bash /share/guest/driver-root.sh
