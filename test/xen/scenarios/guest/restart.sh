# fio writes and verifies until dom0 attaches a second disk; whatever becomes of the backend, it sees no error.
within 240 test -b /dev/xvda || { echo "CHECK FAILED the disk is there"; exit 1; }
echo "MARK working"
rounds=0; status=0
while [ $status = 0 ] && [ ! -b /dev/xvdb ]; do
  /tools/bin/fio --name=verify --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --thread --numjobs=2 \
    --rw=randrw --bsrange=4k-256k --size=8m --offset_increment=8m \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --fsync=32 --randrepeat=0 --eta=never --output=/tmp/fio.out
  status=$?; rounds=$((rounds + 1))
done
[ $status = 0 ] || cat /tmp/fio.out
check "fio verified all that it wrote ($rounds rounds)" test $status = 0
check "the guest's kernel complained of nothing" sh -c '! dmesg | grep "I/O error"'
exit 0
