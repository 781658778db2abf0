# A PV Linux guest with four disks, attached while it runs: filesystem, swap, read-only, discard.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
mkdir -p /tmp/ro; echo hello > /tmp/ro/from-dom0
image /root/a.img 64M; image /root/c.img 160M; image /root/d.img 64M; image /root/e.img 1M
image /root/ro.img 16M; mke2fs -q -t ext2 -d /tmp/ro /root/ro.img
sha256sum /root/ro.img > /tmp/ro.sum

domu --warm --bg --disk "$(disk xvda /root/a.img)" --disk "$(disk xvdb /root/ro.img ro)" \
  --disk "$(disk xvdc /root/c.img)" --disk "$(disk xvdd /root/d.img)" "$(guest_script disks)" || give_up "xl attaches the disks"
follow warm
say "attached"
warm=$(domid warm)
within 600 marked warm mounted || give_up "the guest mounts its disk"
truncate -s 96M /root/a.img
check "the operator has the daemon look at the image's size" xbdback resize "$warm/xvda"
within 600 marked warm written || give_up "the guest writes"
before=$(stat -c %b /root/d.img)
check "an image has blocks for what was written" test "$before" -ge $((48 * 2048))
check "a disk is attached while the guest runs" xl block-attach warm "$(disk xvde /root/e.img)"
domu --wait warm >/dev/null
check "the guest ran to its end" test $? = 0
after=$(stat -c %b /root/d.img)
check "discard gave the image's blocks back ($before to $after)" test "$after" -le $((17 * 2048))
check "the read-only image is untouched" sha256sum -c /tmp/ro.sum
check "nothing is left of the guest" within 120 released
check "no grant is in use" no_grants_in_use
check "the daemon stops" daemon_stop
finish
