# fio verifies xvda through the frontend loaded anew with other parameters each time. Lines of /tmp/combinations:
# queues, ring page order, indirect segments, persistent or not.
within 240 test -b /dev/xvda || { echo "CHECK FAILED the disk is there"; exit 1; }
fio_verify() {
  /tools/bin/fio --name=verify --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --thread --numjobs=2 \
    --rw=randrw --bsrange=4k-512k --size=12m --offset_increment=12m \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --fsync=32 --randrepeat=0 --output=/tmp/fio.out
  status=$?
  [ $status = 0 ] || cat /tmp/fio.out
  return $status
}
while read -r queues order indirect persistent; do
  name="queues $queues, ring page order $order, $indirect segments, persistent grants $persistent"
  # Not before the load has come back, in which the module is in use.
  within 240 rmmod xen_blkfront || { lsmod; rmmod xen_blkfront; echo "CHECK FAILED $name: rmmod"; exit 1; }
  flag=Y; [ $persistent = off ] && flag=N
  insmod /mod/*-xen-blkfront.ko max_queues=$queues max_ring_page_order=$order max_indirect_segments=$indirect \
    feature_persistent=$flag
  within 240 test -b /dev/xvda || { echo "CHECK FAILED $name: no disk"; exit 1; }
  check "fio: $name" fio_verify
  check "fio trims: $name" blkdiscard -o 0 -l 4194304 /dev/xvda
done < /tmp/combinations
exit 0
