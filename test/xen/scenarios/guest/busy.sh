# A guest that writes and reads without end.
within 300 test -b /dev/xvda
echo "MARK busy"
while true; do
  dd if=/dev/urandom of=/dev/xvda bs=64k count=256 oflag=direct 2>/dev/null || echo "MARK write-failed"
  dd if=/dev/xvda of=/dev/null bs=64k count=256 iflag=direct 2>/dev/null || echo "MARK read-failed"
done
