# The quick proof: a running PV Linux guest is given a disk, and keeps files on it.
. /share/lib.sh
install_product
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
