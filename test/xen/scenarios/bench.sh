# The same guest and fio jobs on one ram disk, served by the kernel's xen-blkback, by QEMU's qdisk, and by xbdback,
# REPEATS times in turn.
# Prints "PEER name", then the guest's "BENCH job iops kibs", then "CPU seconds" of dom0 for all the jobs.
. /share/lib.sh
install_product
modprobe brd rd_nr=1 rd_size=65536
modprobe loop

# The guest's initramfs with fio and its libraries.
mkdir -p /tmp/x/tools /tmp/t
mount -o loop,ro /xenlab/tools.img /tmp/t && cp -a /tmp/t/bin /tmp/t/lib* /tmp/t/usr /tmp/x/tools/ && umount /tmp/t
cp "$(guest_script fio)" /tmp/x/script
{ cat /xenlab/domu.cpio; (cd /tmp/x && find . | busybox cpio -o -H newc 2>/dev/null); } > /tmp/rd
rm -rf /tmp/x

dom0_seconds() { xl list 0 | awk 'NR == 2 { print $NF }'; }

# peer NAME DISK
peer() {
  local begin
  echo "PEER $1"
  printf '%s\n' "name='$1'" "type='pv'" "memory=512" "vcpus=2" "kernel='/xenlab/vmlinux'" "ramdisk='/tmp/rd'" \
    "extra='console=hvc0 quiet mitigations=off init_on_alloc=0 apparmor=0 audit=0'" \
    "on_poweroff='destroy'" "on_crash='destroy'" "disk=['$2']" > "/tmp/$1.cfg"
  xl create -q "/tmp/$1.cfg" || { echo "BENCH-FAILED $1"; return; }
  within 300 marked "$1" fio-begins; begin=$(dom0_seconds)
  within 300 marked "$1" fio-ends
  echo "CPU $(dom0_seconds) $begin"
  console "$1" | grep '^BENCH'
  within 120 sh -c "! xl domid $1"
}

# Only one backend can have the kind at a time.
for ((round = 0; round < ${REPEATS:-1}; round++)); do
  modprobe xen-blkback
  peer blkback 'phy:/dev/ram0,xvda,w'
  rmmod xen-blkback
  peer qdisk 'format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=/dev/ram0'
  daemon_start
  peer xbdback "$(disk xvda /dev/ram0)"
  daemon_stop
done
echo "CHECKS DONE"
