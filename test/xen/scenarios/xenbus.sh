# xenstore over /dev/xen/xenbus, as in a driver domain: the port, and a guest's disk.
. /share/lib.sh
install_product
node /share/xenbus.mjs || echo "CHECK FAILED the script ends"
# For the daemon only: libxl would heed it, too.
PRIVILEGES=(env XENSTORED_PATH=/none)
check "the daemon starts" daemon_start || exit 1
mkdir -p /tmp/m; echo hello > /tmp/m/from-dom0
image /root/a.img 32M; mke2fs -q -t ext2 -d /tmp/m /root/a.img
domu --warm --bg --disk "$(disk xvda /root/a.img)" "$(guest_script small)" || give_up "xl attaches the disk"
domu --wait warm
check "the guest ran to its end" test $? = 0
check "nothing is left of the guest" within 120 released
check "no grant is in use" no_grants_in_use
daemon_stop
finish
