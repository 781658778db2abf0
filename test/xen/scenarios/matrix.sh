# fio verifies a disk over the ways in which a Linux frontend can connect: one guest, its frontend loaded again and again,
# which Linux only allows without a disk.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
image /root/a.img 64M
# Queues, ring page order, indirect segments, persistent grants: all of them with FULL=1, else each value of each with
# both ends of the others. A frontend with persistent grants takes a page for each segment of each request of its rings
# beforehand: those for which the guest has not the memory are left out.
combinations() {
  if [ "${FULL:-0}" = 1 ]; then
    for q in 1 2; do for o in 0 1 2 3 4; do for i in 32 256; do for p in N Y; do
      [ $p = Y ] && [ $((q * (32 << o) * i * 4)) -gt 131072 ] || echo "$q $o $i $p"
    done; done; done; done
  else
    printf '%s\n' '1 0 32 N' '2 0 256 Y' '1 1 256 Y' '2 2 32 N' '1 3 256 N' '2 4 256 N' '1 4 32 Y'
  fi
}
{ echo "cat > /tmp/combinations <<'END'"; combinations; echo END; } > /tmp/head.sh
cat /tmp/head.sh "$(guest_script matrix)" > /tmp/matrix.sh
modprobe loop
tools_initramfs /tmp/matrix.sh
tools_guest fio || give_up "xl creates the guest"
follow fio
round=0
for combination in $(combinations | tr ' ' _); do
  round=$((round + 1))
  within 300 marked fio "loaded $round\$" || give_up "the guest loads its frontend: $combination"
  xl block-attach fio "$(disk xvda /root/a.img)" || give_up "xl attaches the disk: $combination"
  within 300 marked fio "done $round\$" || give_up "fio comes to its end: $combination"
  xl block-detach fio xvda || give_up "xl detaches the disk: $combination"
done
domu --wait fio > /dev/null
check "the guest ran to its end" test $? = 0
check "it went through all of it" test "$(console fio | grep -c '^CHECK ok fio')" = $((2 * round))
check "nothing is left of the guest" within 120 released
check "no grant is in use" no_grants_in_use
daemon_stop
finish
