# Plain phy: disks, with Xen's own hotplug script.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
backend_state() { [ "$(xenstore-read "$BACKEND/$1/state" 2>/dev/null)" = "$2" ]; }
image /root/a.img 64M
domu --warm --bg "$(guest_script stay)"
warm=$(domid warm)
modprobe loop; losetup /dev/loop4 /root/a.img
check "xl attaches a block device" xl block-attach warm "phy:/dev/loop4,xvda,w"
check "the guest connects to it" within 240 backend_state "$warm/51712" 4
check_refused "Xen's script refuses another guest" "mounted in a guest domain" \
  domu --name other --disk "phy:/dev/loop4,xvda,w" "$(guest_script hello)"
# Xen's script lets one guest have a device twice; we do not.
xl block-attach warm "phy:/dev/loop4,xvdb,w"
check "the daemon refuses it to the same guest again" within 120 grep -q "/dev/loop4: in use by xbdback${warm}i51712" /tmp/daemon.log
check "the guest does not get it" not marked warm 'disks.*xvdb'
check "that one comes off" xl block-detach warm xvdb
check "it comes off" xl block-detach warm xvda
check "nothing is left" within 120 released
daemon_stop
finish
