# Sourced by the scenarios, in dom0. What a scenario proves it prints as "CHECK ok NAME" or "CHECK FAILED NAME"; the last
# line of all is "CHECKS DONE".

set -u
CONSOLES=/var/log/xen/console
NODE_MODULES=/usr/lib/node_modules
BACKEND=/local/domain/0/backend/vbd

say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# check NAME COMMAND... - the command's output is shown only if it fails.
check() {
  local name=$1 status; shift
  "$@" > /tmp/check.out 2>&1; status=$?
  if [ $status = 0 ]; then echo "CHECK ok $name"; return; fi
  cat /tmp/check.out; tail -3 /tmp/daemon.log
  echo "CHECK FAILED $name (status $status)"
  return 1
}

# The same, for a command that must fail with words that match.
check_refused() {
  local name=$1 pattern=$2 out status; shift 2
  out=$("$@" 2>&1); status=$?
  if [ $status != 0 ] && printf '%s\n' "$out" | grep -qE "$pattern"; then echo "CHECK ok $name"; return; fi
  printf 'wanted a failure with "%s"; status %s and\n%s\n' "$pattern" "$status" "$out"
  echo "CHECK FAILED $name"
  return 1
}

# within SECONDS COMMAND... - waits until the command succeeds; if it does not, shows what it said last.
within() {
  local end=$((SECONDS + $1)) said; shift
  until said=$("$@" 2>&1); do
    if [ $SECONDS -ge $end ]; then echo "not in time: $*"; echo "$said"; return 1; fi
    sleep 1    # The machine is slow, and to look costs more than to wait.
  done
}

# As the package's own README installs it: its folder is shared in at its place.
install_product() {
  ln -sf "$NODE_MODULES/xbdback/bin/xbdback.mjs" /usr/bin/xbdback
  install -m 755 "$NODE_MODULES/xbdback/xen/block-xbdback" /etc/xen/scripts/
}

# From now on daemon_start gives the daemon what the systemd unit gives it: a user of its own and the unit's capabilities.
PRIVILEGES=()
as_unit() {
  local unit=$NODE_MODULES/xbdback/packaging/xbdback.service bounding ambient
  caps() { sed -n "s/^$1=CAP_//p" "$unit" | tr A-Z a-z; }
  bounding=$(caps CapabilityBoundingSet) ambient=$(caps AmbientCapabilities)
  PRIVILEGES=(setpriv --reuid 990 --regid 990 --clear-groups --no-new-privs
    --bounding-set "-all,+$bounding" --inh-caps "-all,+$ambient" --ambient-caps "-all,+$ambient")
  install -d -m 755 -o 990 -g 990 /run/xbdback
}

daemon_start() {
  # A killed one has left it, and it is what we wait for.
  rm -f /run/xbdback/vbd.sock
  "${PRIVILEGES[@]}" xbdback serve "$@" >> /tmp/daemon.log 2>&1 &
  DAEMON=$!
  within 300 test -S /run/xbdback/vbd.sock || { cat /tmp/daemon.log; return 1; }
}

daemon_stop() { kill "$DAEMON" 2>/dev/null; wait "$DAEMON"; }

# image PATH SIZE - a sparse image.
image() { rm -f "$1"; truncate -s "$2" "$1"; }

# disk VDEV PATH [MODE] - for xl.
disk() { echo "script=block-xbdback,vdev=$1,access=${3:-rw},target=$2"; }

# guest_script NAME... - makes /tmp/guest.sh out of guest/*.sh; prints its path.
guest_script() {
  local part
  for part in lib "$@"; do cat "/share/guest/$part.sh"; done > /tmp/guest.sh
  echo /tmp/guest.sh
}

# tools_initramfs SCRIPT - makes /tmp/rd, for a guest that has fio and its libraries in /tools and runs the script.
tools_initramfs() {
  mkdir -p /tmp/x/tools /tmp/t
  mount -o loop,ro /xenlab/tools.img /tmp/t && cp -a /tmp/t/bin /tmp/t/lib* /tmp/t/usr /tmp/x/tools/ && umount /tmp/t
  cp "$1" /tmp/x/script
  { cat /xenlab/domu.cpio; (cd /tmp/x && find . | busybox cpio -o -H newc 2>/dev/null); } > /tmp/rd
  rm -rf /tmp/x
}

# tools_guest NAME [DISK] - creates a guest of two vCPUs with that initramfs.
tools_guest() {
  printf '%s\n' "name='$1'" "type='pv'" "memory=512" "vcpus=2" "kernel='/xenlab/vmlinux'" "ramdisk='/tmp/rd'" \
    "extra='console=hvc0 quiet mitigations=off init_on_alloc=0 apparmor=0 audit=0'" \
    "on_poweroff='destroy'" "on_crash='destroy'" "disk=[${2:+'$2'}]" > "/tmp/$1.cfg"
  xl create -q "/tmp/$1.cfg"
}

console() { tr -d '\r' < "$CONSOLES/guest-$1.log"; }
marked() { console "$1" | grep -q "^MARK $2"; }
not() { ! "$@"; }

# domid NAME - while another guest comes or goes, xl now and then does not find one that is there.
domid() { xl domid "$1" 2>/dev/null || { sleep 1; xl domid "$1"; }; }
gone() { ! domid "$1" >/dev/null 2>&1; }

# Nothing of a guest's is left with the daemon: grants in Xen, mappings, open images, xenstore nodes.
released() {
  local left=0 name
  if grep -q gntdev /proc/$DAEMON/maps; then grep gntdev /proc/$DAEMON/maps; left=1; fi
  for name in /proc/$DAEMON/fd/*; do
    case $(readlink "$name") in *.img) readlink "$name"; left=1;; esac
  done
  if xenstore-ls "$BACKEND" 2>/dev/null | grep -q .; then xenstore-ls -f "$BACKEND"; left=1; fi
  return $left
}

# Active grants that dom0 has of any guest. References below 8 are the console's and xenstore's.
grants_in_use() {
  local ref found=1
  xl debug-keys g; sleep 2
  for ref in $(xl dmesg | tac | sed "/pressed/q" | sed -n "s/^(XEN) \[\(0x[0-9a-f]*\)\].*/\1/p"); do
    [ $((ref)) -lt 8 ] || { echo "grant $ref is in use"; found=0; }
  done
  return $found
}

no_grants_in_use() { ! grants_in_use; }

# Complaints of dom0's kernel, of Xen, and of the guests' kernels.
complaints() {
  local name found=0 pattern='g\.e\. still in use|WARNING|BUG|Oops|bogus|wrong operation|references no pending|I/O error|hung task|Call Trace'
  dmesg | grep -E "$pattern" && found=1
  for name in "$CONSOLES"/guest-*.log; do
    tr -d '\r' < "$name" | grep -vE "${EXPECTED:-nothing is expected}" | grep -E "$pattern" && { echo "in $name"; found=1; }
  done
  xl dmesg | grep -E '\(XEN\).*(grant_table\.c|event_channel\.c|Bad flags|BUG|WARN)' | grep -vE "${EXPECTED_XEN:-nothing is expected}" && found=1
  return $((1 - found))
}

no_complaints() { ! complaints; }

# Ends a scenario that cannot go on.
give_up() { echo "CHECK FAILED $*"; tail -20 /tmp/daemon.log; exit 1; }

# follow NAME - shows a guest's console from now on.
follow() {
  ( tail -n +1 -s 0.5 -F "$CONSOLES/guest-$1.log" 2>/dev/null | sed -u "s/\r//g; s/^/$1: /; s/^$1: CHECK/CHECK/" ) &
}

finish() {
  say "the daemon's log"; cat /tmp/daemon.log
  check "no complaint in dom0's, Xen's and the guests' logs" no_complaints
  echo "CHECKS DONE"
}
