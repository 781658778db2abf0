# A guest whose only disk holds what it lives on: it writes and reads back for ever, and says each round that went well.
within 300 test -b /dev/xvda
round=0
while true; do
  round=$((round + 1))
  dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
  if dd if=/tmp/data of=/dev/xvda bs=64k oflag=direct 2>/dev/null &&
    dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/data; then
    echo "MARK round $round"
  else
    echo "CHECK FAILED the disk in round $round"
  fi
  sleep 1
done
