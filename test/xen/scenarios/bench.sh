# The same guest and fio jobs on one ram disk, served by the kernel's xen-blkback, by QEMU's qdisk, and by xbdback,
# REPEATS times in turn.
# Prints "PEER name", then the guest's "BENCH job iops kibs", then "CPU seconds" of dom0 for all the jobs.
. /share/lib.sh
install_product
modprobe brd rd_nr=1 rd_size=65536
modprobe loop

tools_initramfs "$(guest_script fio)"

dom0_seconds() { xl list 0 | awk 'NR == 2 { print $NF }'; }

# peer NAME DISK
peer() {
  local begin
  echo "PEER $1"
  # A guest of an earlier round has left it.
  rm -f "$CONSOLES/guest-$1.log"
  tools_guest "$1" "$2" || { echo "BENCH-FAILED $1"; return; }
  within 300 marked "$1" fio-begins; begin=$(dom0_seconds)
  within 300 marked "$1" fio-ends
  echo "CPU $(dom0_seconds) $begin"
  console "$1" | grep '^BENCH'
  within 120 gone "$1"
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
