# A guest that only stays: what it says is that its disk is there, as often as one appears or goes.
seen=
while true; do
  now=$(cd /sys/block; echo xvd*)
  [ "$now" = "$seen" ] || echo "MARK disks $now"
  seen=$now
  sleep 2
done
