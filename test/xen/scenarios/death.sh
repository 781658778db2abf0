# Guest, daemon and device die in every order, and nothing is left; a guest is saved and restored.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
image /root/a.img 64M; image /root/b.img 64M

say "save and restore"
domu --warm --bg --disk "$(disk xvda /root/a.img)" "$(guest_script busy)" || give_up "xl attaches the disk"
check "the guest is at work" within 300 marked warm busy
check "xl save" timeout 200 xl save warm /root/warm.save
check "nothing is left of the saved guest" within 120 released
check "its image is free" sh -c 'flock -n /root/a.img true'
check "xl restore" timeout 200 xl restore /root/warm.save
rm -f /root/warm.save
id=$(domid warm)
connected() { [ "$(xenstore-read "$BACKEND/$id/51712/state")" = 4 ]; }
check "the restored guest is connected" within 240 connected
check "no read or write of the guest's failed" sh -c '! grep -a "MARK .*-failed" /var/log/xen/console/guest-warm.log'

say "the daemon is killed in the midst of I/O"
kill -9 $DAEMON; wait $DAEMON 2>/dev/null
check "no grant is in use" no_grants_in_use
check "its image is free for others" within 10 flock -n /root/a.img true
before=$SECONDS
timeout 120 xl destroy warm
check "xl destroy does not hang over it ($((SECONDS - before)) s)" test $((SECONDS - before)) -lt 60
check "xl list is clean" gone warm
check "a daemon starts again" daemon_start
check "and serves: create" domu --name again --disk "$(disk xvda /root/b.img)" "$(guest_script hello)"

say "the guest dies first, then the daemon, then the device"
domu --name busy --bg --disk "$(disk xvda /root/b.img)" "$(guest_script busy)" || give_up "xl create"
within 300 marked busy busy
id=$(domid busy)
xl pause busy
check "the guest is destroyed while paused" timeout 60 xl destroy busy
check "nothing is left of it" within 120 released
check "no grant is in use" no_grants_in_use

say "the device goes first, by force"
domu --name busy --bg --disk "$(disk xvda /root/b.img)" "$(guest_script busy)" || give_up "xl create"
within 300 marked busy busy
id=$(domid busy)
xenstore-rm "$BACKEND/$id/51712"; xenstore-rm "$BACKEND/$id"
check "nothing is left of the device" within 120 released
timeout 60 xl destroy busy
check "no grant is in use" no_grants_in_use

say "the daemon stops politely while a guest runs"
domu --name busy --bg --disk "$(disk xvda /root/b.img)" "$(guest_script busy)" || give_up "xl create"
within 300 marked busy busy
daemon_stop
check "no grant is in use" no_grants_in_use
timeout 120 xl destroy busy
check "xl is rid of the guest" gone busy
EXPECTED='I/O error, dev xvda|MARK'
finish
