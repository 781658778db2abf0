# Reboots once; the mark of that is on the disk.
within 240 test -b /dev/xvda
mark() { dd if=/dev/xvda bs=512 count=1 iflag=direct 2>/dev/null | head -c 6; }
if [ "$(mark)" = before ]; then echo "MARK rebooted"; exit 0; fi
{ echo before; head -c 505 /dev/zero; } > /tmp/sector
dd if=/tmp/sector of=/dev/xvda bs=512 count=1 oflag=direct 2>/dev/null
echo "MARK before"
reboot -f
