# The operator's commands in a dom0, on a guest that runs: attached without xl, watched, resized, limited, paused, detached;
# the daemon with no more privileges than its unit gives it.
. /share/lib.sh
install_product
as_unit
check "the daemon starts" daemon_start || exit 1
check "it is not root" test "$(stat -c %u /proc/$DAEMON)" = 990
check "it has one capability" grep -q '^CapEff:.0000000000000002$' /proc/$DAEMON/status
backend_state() { [ "$(xenstore-read "$BACKEND/$1/state" 2>/dev/null)" = "$2" ]; }
shows() { xbdback show "$1" | grep -qE "$2"; }
image /root/a.img 64M; image /root/b.img 32M
domu --warm --bg "$(guest_script stay)"
warm=$(domid warm)
check "check says that the image can be served" xbdback check /root/a.img,raw,xvda,rw
check "attach, to a domain by its name" xbdback attach warm /root/a.img,raw,xvda,rw
check "the guest connects" within 240 backend_state "$warm/51712" 4
check_refused "attach refuses an image in use" "/root/a.img: in use by xbdback${warm}i51712" \
  xbdback attach warm /root/a.img,raw,xvdb,rw
check_refused "attach refuses a name that is taken" "51712|xvda" xbdback attach warm /root/b.img,raw,xvda,rw
check_refused "attach to a domain that is not there" "none" xbdback attach none /root/b.img,raw,xvdb,rw
check "list has it" sh -c "xbdback list | grep -q xbdback${warm}i51712"
check "show has the image" shows "$warm/xvda" /root/a.img
truncate -s 96M /root/a.img
check "resize" xbdback resize "$warm/xvda"
check "the guest is told" test "$(xenstore-read "$BACKEND/$warm/51712/sectors")" = 196608
check "limit" xbdback limit "$warm/xvda" --iops 500
check "pause" xbdback pause "$warm/xvda"
check "unpause" xbdback unpause "$warm/xvda"
check "stats" xbdback stats "$warm/xvda"
check "detach" timeout 120 xbdback detach "$warm/xvda"
check "nothing is left" within 120 released
check "no grant is in use" no_grants_in_use
check "its image is free" xl block-attach warm "$(disk xvda /root/a.img)"
check "what xl attached, xl detaches" xl block-detach warm xvda
check "the daemon stops" daemon_stop
finish
