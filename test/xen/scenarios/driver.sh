# A driver domain: a PV Linux with the daemon and xl devd, whose root disk the kernel's xen-blkback serves in dom0. Guests
# with disks of it are created and destroyed, the daemon there is killed, and so is the whole domain.
. /share/lib.sh
touch /tmp/daemon.log    # The daemon's log is on the driver domain's console.
modprobe xen-blkback
mount /dev/vdb /mnt
mkdir -p "/mnt$NODE_MODULES" /mnt/share
cp -a "$NODE_MODULES/." "/mnt$NODE_MODULES/"; cp -r /share/. /mnt/share/
umount /mnt

# A disk of the driver domain, for xl.
served() { echo "backend=driver,$(disk "$@")"; }

# in_driver COMMAND - in the shell of the driver domain. What it prints is on that domain's console.
in_driver() {
  local data number; data=/local/domain/$(domid driver)/data number=$(date +%s%N)
  xenstore-write "$data/command" "$number $*"
  within 300 answered "$data" "$number" && return "$(xenstore-read "$data/status" | cut -d' ' -f2)"
}
answered() { [ "$(xenstore-read "$1/status" | cut -d' ' -f1)" = "$2" ]; }

key_is() { [ "$(xenstore-read "$BACKEND/$1")" = "$2" ]; }
nothing_of() { ! xenstore-exists "$BACKEND/$1"; }
# Xen keeps a dead domain, without a name, as long as pages of it are mapped.
no_dead_domain() { ! xl list | grep -F '(null)'; }
rounds() { console warm | grep -c '^MARK round'; }
later_round() { [ "$(rounds)" -gt "$1" ]; }
starts() { [ "$(console driver | grep -c '^MARK started')" = "$1" ]; }
driver_starts() {
  check "the daemon starts in it" within 300 starts "$1" || give_up
  BACKEND=/local/domain/$(domid driver)/backend/vbd
}
nothing_in_xenstore() { ! xenstore-ls -f / | grep -E '^/local/domain/[1-9]|^/libxl/[1-9]|^/vm/.|/backend/.*/[0-9]'; }

check "a driver domain is created" domu --name driver --mem 400 --bg --disk phy:/dev/vdb,xvda,w \
  --xl driver_domain=1 --xl "on_reboot='restart'" "$(guest_script driver)" || give_up
follow driver
driver_starts 1

say "a guest that reads back what it writes"
domu --warm --bg --disk "$(served xvda /root/a.img)" "$(guest_script rooted)" || give_up "xl block-attach"
warm=$(domid warm)
follow warm
check "it writes and reads" within 300 marked warm round
check "a second disk is attached" xl block-attach warm "$(served xvdb /root/b.img)"
check "the guest connects" within 240 key_is "$warm/51728/state" 4
check "xbdback list in the driver domain has both" in_driver "xbdback list | tee /dev/stderr | grep -c xbdback${warm}i | grep -qx 2"
check "the second is detached" xl block-detach warm xvdb
check "nothing is left of that" within 60 nothing_of "$warm/51728"
check "nor in the driver domain" in_driver "within 120 is_closed /root/b.img"
times=1; [ "${FULL:-0}" = 1 ] && times=5
for ((time = 1; time <= times; time++)); do
  in_driver 'kill -9 $DAEMON; wait $DAEMON'
  check "time $time: the daemon is killed; xenstore has the disk as it was" key_is "$warm/51712/state" 4
  then=$(rounds)
  check "a new daemon starts" in_driver daemon_start
  check "the guest continues" within 240 later_round "$((then + 1))"
  check "its rings were taken over" in_driver "[ \$(grep -c 'taken over' /tmp/daemon.log) = $time ]"
done

say "an image in use, and a frontend that is gone"
check "a second guest has a disk" domu --name other --bg --disk "$(served xvda /root/b.img)" "$(guest_script stay)" || give_up
other=$(domid other)
check "it connects" within 300 key_is "$other/51712/state" 4
reason="/root/a.img: in use by xbdback${warm}i51712, a disk of domain $warm; detach it there first"
xl block-attach other "$(served xvdb /root/a.img)"
check "the first guest's image is refused to it, with the reason in xenstore" \
  within 120 key_is "$other/51728/hotplug-error" "$reason"
check "xl devd prints the reason" within 60 in_driver "grep -F 'script: $reason' /tmp/devd.log"
xl block-detach other xvdb
check "what was refused is removed" within 60 nothing_of "$other/51728"
# What libxl does first when it destroys a domain. It then waits ten seconds for the backend, which we need not.
xl pause other
xenstore-write "$BACKEND/$other/51712/online" 0 "$BACKEND/$other/51712/state" 5
xenstore-rm "/local/domain/$other/device/vbd/51712"
check "a disk whose frontend's directory is removed is closed, and removed by xl devd" within 120 nothing_of "$other/51712"
check "and the guest is destroyed" timeout 60 xl destroy other

say "a guest is destroyed in the midst of I/O"
domu --name busy --bg --disk "$(served xvda /root/b.img)" "$(guest_script busy)" || give_up "xl create"
check "a guest writes and reads" within 300 marked busy busy
busy=$(domid busy) then=$SECONDS
check "xl destroys it" timeout 60 xl destroy busy
echo "destroyed in $((SECONDS - then)) s"
check "nothing is left of it" nothing_of "$busy/51712"
check "nor in the driver domain" in_driver "within 120 is_closed /root/b.img"
check "none of its pages is mapped" within 60 no_dead_domain
check "keys that xenstored does not show to a driver domain are not taken for faults" \
  in_driver "! grep EACCES /tmp/daemon.log"

under=warm
if [ "${FULL:-0}" = 1 ]; then
  say "the driver domain reboots under a guest"
  old=$(domid driver)
  xenstore-write "/local/domain/$old/data/command" "0 sync; reboot -f"
  driver_starts 2
  check "it has another domid" test "$(domid driver)" != "$old"
  check "the guest is destroyed" timeout 120 xl destroy warm
  check "a guest has a disk of the new one" domu --name again --bg --disk "$(served xvda /root/a.img)" "$(guest_script rooted)"
  follow again
  check "and uses it" within 300 marked again round
  under=again
fi

say "the driver domain is destroyed under a guest"
check "the driver domain's kernel complained of nothing" in_driver no_complaints
check "the driver domain is destroyed" timeout 60 xl destroy driver
check "the guest is destroyed after it" timeout 120 xl destroy $under
check "every round of the guest that verified went well" not grep -q "CHECK FAILED" "$CONSOLES/guest-warm.log"
check "no domain is left" within 60 no_dead_domain
check "nothing is left in xenstore" nothing_in_xenstore
check "no grant is in use" no_grants_in_use
EXPECTED='I/O error, dev xvda|MARK'
finish
