# The daemon is killed again and again under a Linux guest whose fio verifies its disk; once it is stopped politely.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
image /root/a.img 64M
seconds=60; wanted=4; [ "${FULL:-0}" = 1 ] && seconds=400 wanted=20
{ echo "SECONDS_AT_WORK=$seconds"; cat "$(guest_script restart)"; } > /tmp/restart.sh
modprobe loop
tools_initramfs /tmp/restart.sh
tools_guest fio "$(disk xvda /root/a.img)" || give_up "xl creates the guest"
follow fio
within 300 marked fio working || give_up "the guest is at work"
id=$(xl domid fio)
taken_over() { [ "$(grep -c 'taken over' /tmp/daemon.log)" = "$1" ]; }
kills=0
until marked fio ended || ! xl domid fio > /dev/null; do
  sleep $((RANDOM % 3 + 1))
  marked fio ended && break
  if [ $kills = 2 ]; then kill "$DAEMON"; else kill -9 "$DAEMON"; fi
  wait "$DAEMON" 2>/dev/null
  kills=$((kills + 1))
  [ "$(xenstore-read "$BACKEND/$id/51712/state")" = 4 ] || give_up "the disk stays connected in xenstore"
  daemon_start
  within 120 taken_over $kills || give_up "the ring is taken over, time $kills"
done
check "the daemon went at least $wanted times ($kills)" test $kills -ge $wanted
domu --wait fio > /dev/null
check "the guest ran to its end" test $? = 0
check "nothing is left of the guest" within 120 released
check "no journal is left" sh -c '! ls /run/xbdback/journals | grep .'
check "no grant is in use" no_grants_in_use
daemon_stop
finish
