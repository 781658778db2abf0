# The daemon is killed again and again under a Linux guest whose fio verifies its disk; once it is stopped politely.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
image /root/a.img 64M; image /root/b.img 1M
times=3; [ "${FULL:-0}" = 1 ] && times=20
modprobe loop
tools_initramfs "$(guest_script restart)"
tools_guest fio "$(disk xvda /root/a.img)" || give_up "xl creates the guest"
follow fio
within 300 marked fio working || give_up "the guest is at work"
id=$(domid fio)
taken_over() { [ "$(grep -c 'taken over' /tmp/daemon.log)" = "$1" ]; }
for ((time = 1; time <= times; time++)); do
  sleep $((RANDOM % 3 + 1))
  if [ $time = 2 ]; then kill "$DAEMON"; else kill -9 "$DAEMON"; fi
  wait "$DAEMON" 2>/dev/null
  check "time $time: xenstore has the disk as it was" test "$(xenstore-read "$BACKEND/$id/51712/state")" = 4
  daemon_start
  check "time $time: a new daemon takes the rings over" within 240 taken_over $time
done
xl block-attach fio "$(disk xvdb /root/b.img)" || give_up "xl attaches a disk"
domu --wait fio > /dev/null
check "the guest ran to its end" test $? = 0
check "nothing is left of the guest" within 120 released
check "no journal is left" sh -c '! ls /run/xbdback/journals | grep .'
check "no grant is in use" no_grants_in_use
daemon_stop
finish
