# The installation by hand of docs/dom0.md, line by line as it stands there, in a dom0 whose kernel has xen-blkback loaded.
. /share/lib.sh
document=/tmp/dom0.md
cp "$NODE_MODULES/xbdback/docs/dom0.md" $document
umount "$NODE_MODULES"
cd /package || give_up "no package"
modprobe xen-blkback
awk '/^## By hand/ { here = 1 } here && /^```sh$/ { in_block = 1; next } in_block && /^```$/ { exit } in_block' \
  $document > /tmp/lines
check "the document has the lines" test "$(grep -c . /tmp/lines)" -ge 8
# The daemon's line comes after the kernel's backend was put away: before that, it must refuse.
grep -n 'xbdback serve' /tmp/lines
while read -r line; do
  say "# $line"
  case $line in
  *rmmod*)
    check_refused "beside the kernel's backend the daemon refuses, and says what to do" "rmmod xen-blkback" xbdback serve
    ;;
  *'xl create'*) cp /tmp/guest.cfg guest.cfg ;;
  esac
  eval "$line" || echo "CHECK FAILED $line"
  case $line in
  *'xbdback serve'*) DAEMON=$!; within 300 test -S /run/xbdback/vbd.sock ;;
  *truncate*)
    printf '%s\n' "name='small'" "type='pv'" "memory=160" "kernel='/xenlab/vmlinux'" "ramdisk='/tmp/rd'" \
      "extra='console=hvc0 quiet mitigations=off'" "on_poweroff='destroy'" "on_crash='destroy'" > /tmp/guest.cfg
    # The configuration's disk line, as the document has it.
    grep -m1 "^disk = " $document >> /tmp/guest.cfg
    mkdir -p /tmp/x; cp "$(guest_script hello)" /tmp/x/script
    { cat /xenlab/domu.cpio; (cd /tmp/x && echo script | busybox cpio -o -H newc 2>/dev/null); } > /tmp/rd
    ;;
  esac
done < /tmp/lines
check "the guest has its disk" within 300 marked small sum
check "the guest ends" within 300 gone small
check "no grant is in use" no_grants_in_use
cp /var/log/xbdback.log /tmp/daemon.log
finish
