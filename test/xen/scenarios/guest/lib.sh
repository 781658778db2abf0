# The beginning of every script for a domU. Its checks are printed like the dom0's.
say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }
check() {
  name=$1; shift
  "$@" > /tmp/out 2>&1; status=$?
  if [ $status = 0 ]; then echo "CHECK ok $name"; return 0; fi
  cat /tmp/out; echo "CHECK FAILED $name (status $status)"
  return 1
}
not() { ! "$@"; }
within() {
  end=$(($(cut -d. -f1 /proc/uptime) + $1)); shift
  until "$@" > /dev/null 2>&1; do
    [ "$(cut -d. -f1 /proc/uptime)" -lt $end ] || { echo "not in time: $*"; return 1; }
    sleep 1
  done
}
size_of() { blockdev --getsize64 "/dev/$1"; }
drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }
