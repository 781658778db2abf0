# What the guest does with its disk: reads what dom0 wrote, and writes what dom0 reads.
i=0; until [ -b /dev/xvda ] || [ $i -ge 100 ]; do sleep 1; i=$((i + 1)); done
echo "MARK read $(head -c 1048576 /dev/xvda | sha256sum | cut -d' ' -f1)"
echo "written by the guest" | dd of=/dev/xvda bs=1M seek=1 conv=fsync 2> /dev/null
echo "MARK written"
# And goes on, past the cache, where dom0 sees each round.
round=0
while true; do
  round=$((round + 1))
  echo "round $round" | dd of=/dev/xvda bs=4096 seek=512 conv=sync,fsync 2> /dev/null
  if dd if=/dev/xvda bs=4096 skip=512 count=1 iflag=direct 2> /dev/null | grep -aqx "round $round"; then
    echo "MARK round $round"
  else
    echo "MARK wrong $round"
  fi
  sleep 2
done
