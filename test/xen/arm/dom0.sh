# A guest's disk on Arm, from the daemon's start to what is left when the guest is gone.
. /share/lib.sh
# Where the Debian package has it.
NODE_MODULES=/usr/lib
IMAGE=/var/lib/xen/disk.img

says() { local said; said=$(xbdback show a/xvda --json); echo "$said"; echo "$said" | grep -q "$1"; }
# Whether an open file of the image is writable and has O_DIRECT, whose number is Arm's; flags are octal here.
direct() {
  local fd flags
  for fd in /proc/$DAEMON/fd/*; do
    [ "$(readlink "$fd")" = $IMAGE ] || continue
    flags=$(sed -n 's/^flags:\s*/0/p' "/proc/$DAEMON/fdinfo/${fd##*/}"); echo "flags $flags"
    [ $((flags & 0200002)) = $((0200002)) ] && return 0
  done
  return 1
}
xen_on_arm() { local said; said=$(xl info); echo "$said"; [[ $said =~ machine\ *:\ aarch64 && $said =~ xen_version\ *:\ 4\.20 ]]; }
sum_at() { dd if=$IMAGE bs=64k skip="$1" count="$2" iflag=direct status=none | sha256sum | cut -d' ' -f1; }
wrote() { console a | sed -n 's/^MARK wrote //p'; }
no_errors() { ! grep -E 'level=(error|warning)' /tmp/daemon.log; }

check "this is Xen 4.20 on Arm" xen_on_arm
image $IMAGE 64M
head -c 1M /dev/urandom | dd of=$IMAGE conv=notrunc status=none
as_unit
chown 990:990 $IMAGE
check "the daemon starts, as its user and with the unit's capabilities" daemon_start --cache none || give_up "there is no daemon"
say "the daemon has started"
mkdir -p /tmp/x; cp /share/guest.sh /tmp/x/script
{ cat /xenlab/domu.cpio; (cd /tmp/x && echo script | busybox cpio -o -H newc 2> /dev/null); } > /tmp/rd
cat > /tmp/a.cfg <<CONFIG
name = 'a'
type = 'pvh'
memory = 256
kernel = '/xenlab/Image'
ramdisk = '/tmp/rd'
extra = 'console=hvc0 quiet mitigations=off init_on_alloc=0'
on_poweroff = 'destroy'
on_crash = 'destroy'
disk = ['$(disk xvda $IMAGE)']
CONFIG
check "xl creates a guest" xl create -q /tmp/a.cfg || give_up "there is no guest"
check "the guest has read its disk" within 300 marked a "read $(sum_at 0 16)"
check "the guest has written" within 300 marked a "wrote"
check "it reads what it wrote" within 300 marked a "same"
check "and so does dom0, in the image" test "$(sum_at 32 64)" = "$(wrote)"
check "the guest's requests have Arm's layout" says arm-abi
check "the image's open file is past the page cache" direct
say "verified"
echo goodbye | dd of=$IMAGE bs=4096 seek=4096 conv=notrunc,sync oflag=direct status=none
check "the guest ends" within 300 gone a
check "nothing of it is left" within 120 released
check "no grant is in use" no_grants_in_use
check "the daemon stops" daemon_stop
check "neither error nor warning is in the daemon's log" no_errors
finish
