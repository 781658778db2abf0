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

# A guest that lives on a disk of QEMU's: whatever is attached or detached here by mistake, it keeps it.
image /root/q.img 64M
domu --name rooted --bg --disk 'format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=/root/q.img' "$(guest_script rooted)"
rooted=$(domid rooted)
nodes() {
  xenstore-ls -fp "/local/domain/$rooted/device/vbd"; xenstore-ls -fp "/libxl/$rooted/device/vbd"
  xenstore-ls -fp "/local/domain/0/backend/qdisk/$rooted"
}
rounds() { console rooted | grep -c '^MARK round'; }
later_round() { [ "$(rounds)" -gt "$1" ]; }
check "its disk is QEMU's" within 240 marked rooted round
nodes > /tmp/before
taken="served by qdisk of domain 0: detach it first with .xl block-detach $rooted 51712"
check_refused "attach leaves QEMU's disk alone" "$taken" xbdback attach rooted /root/b.img,raw,xvda,rw
check_refused "also of an image that is not there" "$taken" xbdback attach rooted /none.img,raw,xvda,rw
check_refused "also by its number, read-only" "$taken" xbdback attach rooted /root/b.img,raw,0xca00,ro
check_refused "also as a CD-ROM" "$taken" xbdback attach rooted /root/b.img,raw,xvda,cdrom
check_refused "also as another kind" "qdisk|xbdback" xbdback attach rooted /root/b.img,raw,xvda,rw --kind vbd3
check_refused "also for a backend of another domain" "block-attach" xbdback attach rooted /root/b.img,raw,xvda,rw,backend=warm
check_refused "also the disk of QEMU's own image elsewhere" "/root/q.img: in use" xbdback attach warm /root/q.img,raw,xvdb,rw
check_refused "detach leaves it alone" "xbdback${rooted}i51712" xbdback detach rooted/xvda --timeout 1
check_refused "by its number" "xbdback${rooted}i51712" xbdback detach "$rooted/51712" --timeout 1
check_refused "with --force" "xbdback${rooted}i51712" xbdback detach "$rooted/xvda" --force --timeout 1
check_refused "as another kind" . xbdback detach "$rooted/xvda" --force --timeout 1 --kind vbd3
check_refused "as QEMU's kind" "xl block-detach $rooted 51712" xbdback detach "$rooted/xvda" --force --timeout 1 --kind qdisk
nodes > /tmp/after
check "not one of its nodes has changed" cmp /tmp/before /tmp/after
check "a disk of ours beside it comes" xbdback attach rooted /root/b.img,raw,xvdb,rw
check "and connects" within 240 backend_state "$rooted/51728" 4
check "and goes" timeout 120 xbdback detach "$rooted/xvdb"
check "its nodes are as before" sh -c "xenstore-ls -fp /local/domain/$rooted/device/vbd/51712 > /tmp/after &&
  grep "^/local/domain/$rooted/device/vbd/51712/" /tmp/before | diff - /tmp/after"
rounds_then=$(rounds)
check "the guest writes and reads on" within 120 later_round "$((rounds_then + 2))"
check "every round went well" not grep -q "CHECK FAILED" "$CONSOLES/guest-rooted.log"
xl destroy rooted
check "the daemon stops" daemon_stop
finish
