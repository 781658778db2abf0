# fio verifies a disk over the ways in which a Linux frontend can connect: one guest, its frontend loaded again and again.
. /share/lib.sh
install_product
check "the daemon starts" daemon_start || exit 1
image /root/a.img 64M
# Each value of each parameter, each with both of the others' ends; all of them with FULL=1.
combinations() {
  if [ "${FULL:-0}" = 1 ]; then
    for q in 1 2; do for o in 0 1 2 3 4; do for i in 32 256; do for p in on off; do
      echo "$q $o $i $p"
    done; done; done; done
  else
    printf '%s\n' '1 0 32 off' '2 0 256 on' '1 1 256 on' '2 2 32 off' '1 3 256 off' '2 4 256 on' '1 4 32 on'
  fi
}
{ echo "cat > /tmp/combinations <<'END'"; combinations; echo END; } > /tmp/head.sh
cat /tmp/head.sh "$(guest_script matrix)" > /tmp/matrix.sh
modprobe loop
tools_initramfs /tmp/matrix.sh
tools_guest fio "$(disk xvda /root/a.img)" || give_up "xl creates the guest"
domu --timeout 3000 --wait fio
check "the guest ran to its end" test $? = 0
check "the guest went through all of it" test "$(console fio | grep -c '^CHECK ok fio')" = $((2 * $(combinations | wc -l)))
check "nothing is left of the guest" within 120 released
check "no grant is in use" no_grants_in_use
daemon_stop
finish
