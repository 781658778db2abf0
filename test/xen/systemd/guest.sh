# What the guest does with its disk: reads what dom0 wrote, and writes what dom0 reads.
i=0; until [ -b /dev/xvda ] || [ $i -ge 100 ]; do sleep 1; i=$((i + 1)); done
echo "MARK read $(head -c 1048576 /dev/xvda | sha256sum | cut -d' ' -f1)"
echo "written by the guest" | dd of=/dev/xvda bs=1M seek=1 conv=fsync 2> /dev/null
echo "MARK written"
sleep 1000
