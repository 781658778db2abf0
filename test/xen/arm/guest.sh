# What the guest does with its disk: reads what dom0 wrote, and writes, past its cache, what dom0 reads.
i=0; until [ -b /dev/xvda ] || [ $i -ge 200 ]; do sleep 1; i=$((i + 1)); done
sum() { sha256sum | cut -d' ' -f1; }
echo "MARK read $(dd if=/dev/xvda bs=64k count=16 iflag=direct 2> /dev/null | sum)"
dd if=/dev/urandom of=/tmp/random bs=64k count=64 2> /dev/null
dd if=/tmp/random of=/dev/xvda bs=64k seek=32 oflag=direct conv=fsync 2> /dev/null
echo "MARK wrote $(sum < /tmp/random)"
if dd if=/dev/xvda bs=64k skip=32 count=64 iflag=direct 2> /dev/null | cmp -s - /tmp/random; then echo "MARK same"; fi
# Until dom0 has looked.
cat /dev/xvda > /dev/null
echo "MARK waits"
i=0; until dd if=/dev/xvda bs=4096 skip=4096 count=1 iflag=direct 2> /dev/null | grep -q "^goodbye" || [ $i -ge 300 ]; do
  sleep 1; i=$((i + 1))
done
