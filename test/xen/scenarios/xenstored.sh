# What differs between xenstoreds, on the one that runs: conflicts, order of events, long directories; and xenstored that
# updates itself (live update) under the daemon and a guest that verifies.
. /share/lib.sh
install_product
node /share/xenstored.mjs || echo "CHECK FAILED the script ends"
check "the daemon starts" daemon_start || exit 1
state_is() { [ "$(xenstore-read "$BACKEND/$1/state")" = "$2" ]; }
rounds() { console warm | grep -c '^MARK round'; }
later_round() { [ "$(rounds)" -gt "$1" ]; }
image /root/a.img 64M; image /root/b.img 64M
domu --warm --bg "$(guest_script rooted)"
follow warm
warm=$(domid warm)
check "a disk is attached" xbdback attach warm /root/a.img,raw,xvda,rw || give_up
check "a guest writes and reads" within 600 marked warm round

say "live update"
# The process executes its program again, with one more argument. What it knew it has handed on.
process=$(cat /run/xenstored.pid)
tr '\0' ' ' < "/proc/$process/cmdline" > /tmp/arguments
executed_again() { ! tr '\0' ' ' < "/proc/$process/cmdline" | cmp - /tmp/arguments; }
check "xenstored updates itself" xenstore-control live-update "$(readlink "/proc/$process/exe")"
check "it was executed again" within 60 executed_again
check "the guest writes and reads on" within 240 later_round "$(($(rounds) + 1))"
check "xbdback list" sh -c "xbdback list | grep xbdback${warm}i51712"
check "another disk is attached" xbdback attach warm /root/b.img,raw,xvdb,rw
check "the guest connects" within 240 state_is "$warm/51728" 4
check "it is detached" timeout 240 xbdback detach "$warm/xvdb" --timeout 200
check "the daemon has not lost its connection" test -d "/proc/$DAEMON"

xl destroy warm
check "nothing is left" within 120 released
check "no grant is in use" no_grants_in_use
check "every round of the guest went well" not grep -q "CHECK FAILED" "$CONSOLES/guest-warm.log"
daemon_stop
finish
