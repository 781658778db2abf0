#!/bin/bash
# Runs in a dom0 that has just been booted, where nobody has started anything by hand.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C SYSTEMD_PAGER=
CONSOLE=/var/log/xen/console/guest-guest.log
IMAGE=/var/lib/xen/disk.img

check() {
  local name=$1; shift
  if "$@" > /tmp/said 2>&1; then echo "CHECK ok $name"; else cat /tmp/said; echo "CHECK FAILED $name"; fi
}

# within SECONDS COMMAND... - until the command succeeds.
within() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 1; done
}

not() { ! "$@"; }
marked() { tr -d '\r' < $CONSOLE | grep -q "^MARK $1"; }
since_boot() { systemctl show -P "$2" "$1"; }
# The first unit had started before the second began to.
before() { [ "$(since_boot "$1" ActiveEnterTimestampMonotonic)" -le "$(since_boot "$2" InactiveExitTimestampMonotonic)" ]; }
started() { systemctl is-active "$1" || { systemctl status --no-pager -l "$1"; return 1; }; }
boot_is_over() { ! systemctl list-jobs --no-legend | grep -v lab.service | grep -q .; }
written() { dd if=$IMAGE bs=1M skip=1 count=1 status=none | head -c 20 | grep -q "written by the guest"; }

# Behind what systemd has sent to the terminal.
echo
check "the boot comes to its end" within 300 boot_is_over
check "xen.service has started" started xen
check "the daemon has been started by systemd" started xbdback
check "it was started after xen.service" before xen xbdback
check "xendomains.service was started after it" before xbdback xendomains
check "xendomains has created its guest" xl domid guest
check "the guest has read its disk" within 300 marked "read $(head -c 1M $IMAGE | sha256sum | cut -d' ' -f1)"
check "the guest has written to its disk" within 300 marked written
check "what it wrote is in the image" written
check "the disk is connected" sh -c "xbdback list | tee /dev/stderr | grep -q $IMAGE"
check "no error in the daemon's log" not sh -c "journalctl -u xbdback -p err -q --no-pager | grep ."

# An address that is not the machine's loopback, and at which nobody listens: it needs no network.
ip address add 198.51.100.7/32 dev lo
attach_remote() { xl block-attach guest "script=block-xbdback,vdev=$1,access=r,target=nbd://198.51.100.7:10809/x" 2>&1; }
# refused_with VDEV WORDS - libxl keeps a vdev that it could not attach.
refused_with() { local said; said=$(attach_remote "$1"); echo "$said"; echo "$said" | grep -q "$2"; }
resumed() { journalctl -u xbdback -q --no-pager | grep 'taken over' | grep -q 'devid=51712'; }
drop_in() { mkdir -p /etc/systemd/system/xbdback.service.d; cat > /etc/systemd/system/xbdback.service.d/storage.conf; }
check "a remote disk that the unit keeps away is refused with the remedy" refused_with xvdb "IPAddressAllow"
printf '[Service]\nIPAddressAllow=198.51.100.7\n' | drop_in
systemctl daemon-reload; systemctl restart xbdback
check "the daemon that was restarted has resumed the guest's disk" within 180 resumed
# The image's open file, with its lock, is systemd's as well: nobody takes it, and it is not lost with its name.
rounds() { tr -d '\r' < $CONSOLE | grep -c '^MARK round'; }
more_rounds() { [ "$(rounds)" -gt $(($1 + 2)) ]; }
open_deleted() { ls -l "/proc/$(systemctl show -P MainPID xbdback)/fd" | grep -F "$IMAGE (deleted)"; }
kept_files() { systemctl show -P NFileDescriptorStore xbdback | tee /dev/stderr | grep -qx "$1"; }
check "systemd keeps the image's open file" kept_files 1
check "the guest works" within 180 more_rounds "$(rounds)"
systemctl kill -s KILL xbdback
check "a killed daemon's image is locked" not flock --nonblock $IMAGE true
rm $IMAGE
check "the next daemon has the image that was deleted" within 180 open_deleted
check "the guest's work continues" within 180 more_rounds "$(rounds)"
check "what the guest reads is what it wrote" not marked wrong
check "with the drop-in of xbdback(8) the server is asked" refused_with xvdc "connection refused by"
# A wrong configuration at the first start, with no good one kept: it would fail again and again.
systemctl stop xbdback; rm -f /run/xbdback/last-good-*; echo 'no such key = 1' > /etc/xbdback/xbdback.toml
systemctl start xbdback
failed() { systemctl show -P NRestarts -P ExecMainStatus xbdback | tee /dev/stderr | tr '\n' ' ' | grep -q '^0 2 ' && systemctl is-failed xbdback; }
check "with a wrong configuration the unit fails once" within 60 failed
journalctl -u xbdback -u xen -u xendomains -o short-monotonic --no-pager
tail -n 20 $CONSOLE /var/log/xen/xl-guest.log
echo "CHECKS DONE"
