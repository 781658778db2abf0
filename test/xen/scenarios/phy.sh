# Plain phy: disks, with Xen's own hotplug script.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
backend_state() { [ "$(xenstore-read "$BACKEND/$1/state" 2>/dev/null)" = "$2" ]; }
image /root/a.img 64M
domu --warm --bg "$(guest_script stay)"
warm=$(xl domid warm)
modprobe loop; losetup /dev/loop4 /root/a.img
check "xl attaches a block device" xl block-attach warm "phy:/dev/loop4,xvda,w"
check "the guest connects to it" within 240 backend_state "$warm/51712" 4
check "Xen's script refuses a second user" sh -c '! xl block-attach warm "phy:/dev/loop4,xvdb,w"'
xl block-detach warm xvdb >/dev/null 2>&1
check "it comes off" xl block-detach warm xvda
check "nothing is left" within 120 released
daemon_stop
finish
