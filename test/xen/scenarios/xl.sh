# What xl does with disks of xbdback: attach, detach, refuse, share, create, reboot, destroy.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
attach() { xl block-attach warm "$(disk "$@")"; }
detach() { xl block-detach warm "$1"; }
# refused NAME PATTERN VDEV ... - xl says why, and leaves the directories for us to remove.
refused() {
  local name=$1 pattern=$2; shift 2
  check_refused "$name is refused, with the reason" "script: .*$pattern" attach "$@"
  detach "$1" >/dev/null 2>&1
}
backend_state() { [ "$(xenstore-read "$BACKEND/$1/state" 2>/dev/null)" = "$2" ]; }

image /root/a.img 64M; image /root/b.img 64M; image /root/c.img 64M
dd if=/dev/urandom of=/root/a.img bs=64k count=16 conv=notrunc 2>/dev/null
sum=$(head -c 1M /root/a.img | sha256sum | cut -d' ' -f1)
domu --warm --bg "$(guest_script stay)"
warm=$(domid warm)

say "attach and detach"
check "block-attach" attach xvda /root/a.img
check "the guest connects" within 240 backend_state "$warm/51712" 4
check "its grants can be seen" grants_in_use
refused "an image in use, with its user's name" "/root/a.img: in use by xbdback${warm}i51712" \
  xvdb /root/a.img
refused "to a reader, too" "in use by" xvdb /root/a.img ro
refused "an image that is not there" "/root/none.img: no such file; create it" xvdb /root/none.img
refused "a path that is not absolute" "absolute path" xvdb none.img
refused "a directory" "is a directory" xvdb /root
check "two readers share an image" attach xvdc /root/b.img ro
check "the second of them" attach xvdd /root/b.img ro
refused "a writer among readers" "in use by" xvde /root/b.img
check "they come off" sh -c "xl block-detach warm xvdc && xl block-detach warm xvdd"
modprobe loop; losetup /dev/loop3 /root/c.img
refused "an image that a loop device has" "in use by /dev/loop3" xvdc /root/c.img
check "the loop device itself" attach xvdc /dev/loop3
check "Xen's own rules see who has it" test "$(xenstore-read "$BACKEND/$warm/51744/physical-device")" = "7:3"
check "and it comes off" detach xvdc
mkdir -p /tmp/m; mke2fs -q -t ext2 /dev/loop3; mount /dev/loop3 /tmp/m
refused "a mounted device" "mounted on /tmp/m" xvdc /dev/loop3
umount /tmp/m; losetup -d /dev/loop3
check "block-detach" detach xvda
check "nothing is left" within 120 released

say "create, reboot, destroy"
domu --name small --bg --disk "$(disk xvda /root/a.img)" "$(guest_script hello)" || give_up "xl create"
check "xl create: a guest with a disk runs to its end" domu --wait small
check "it read the image" sh -c "tr -d '\r' < $CONSOLES/guest-small.log | grep -q 'MARK sum $sum'"
domu --name again --bg --disk "$(disk xvda /root/b.img)" --xl "on_reboot='restart'" "$(guest_script reboot)" ||
  give_up "xl create"
check "a guest reboots, and finds what it wrote" within 300 marked again rebooted
check "and ends" within 120 gone again
check_refused "xl create with an image that is not there says so" "script: /root/none.img: no such file" \
  domu --name none --disk "$(disk xvda /root/none.img)" "$(guest_script hello)"
domu --name busy --bg --disk "$(disk xvda /root/b.img)" "$(guest_script busy)" || give_up "xl create"
within 300 marked busy busy
check "a guest is destroyed in the midst of I/O" timeout 60 xl destroy busy
check "nothing is left of it" within 120 released
check "no grant is in use" no_grants_in_use
check "its image is free" attach xvda /root/b.img
check "off again" detach xvda

say "attach and detach in a loop"
# Once before counting, for what is made the first time only.
once() { attach xvda /root/b.img && within 120 backend_state "$warm/51712" 4 && detach xvda; }
once && within 120 released
mapped_files() { awk '$6 ~ "^/"' /proc/$DAEMON/maps | wc -l; }
open_before=$(ls /proc/$DAEMON/fd | wc -l); maps_before=$(wc -l < /proc/$DAEMON/maps); mapped_before=$(mapped_files)
resident() { awk '/^VmRSS/ { print $2 }' /proc/$DAEMON/status; }
resident_before=$(resident)
times=10; [ "${FULL:-0}" = 1 ] && times=100
loop() { local i; for ((i = 0; i < times; i++)); do once || { echo "round $i"; return 1; }; done; }
check "attached and detached $times times" loop
check "nothing is left" within 120 released
check "no grant is in use" no_grants_in_use
check "no file is left open" test "$(ls /proc/$DAEMON/fd | wc -l)" -le "$open_before"
echo "mappings: $maps_before, then $(wc -l < /proc/$DAEMON/maps); resident: $resident_before KiB, then $(resident) KiB"
check "no file or device is left mapped" test "$(mapped_files)" -le "$mapped_before"
# JavaScript's heap comes in pieces, too: 22 in 100 rounds were seen.
check "no mapping is left by each" test "$(wc -l < /proc/$DAEMON/maps)" -le $((maps_before + 20 + times / 4))
check "memory is flat" test "$(resident)" -le $((resident_before + 20000))
daemon_stop
finish
