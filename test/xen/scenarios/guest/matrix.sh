# fio verifies xvda through the frontend loaded anew with other parameters each time. Lines of /tmp/combinations:
# queues, ring page order, indirect segments, persistent or not. dom0 attaches the disk when it reads "loaded", and
# detaches it when it reads "done".
fio_verify() {
  /tools/bin/fio --name=verify --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --thread --numjobs=2 \
    --rw=randrw --bsrange=4k-512k --size=12m --offset_increment=12m \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --fsync=32 --randrepeat=0 --output=/tmp/fio.out
  status=$?
  [ $status = 0 ] || cat /tmp/fio.out
  return $status
}
round=0
while read -r queues order indirect persistent; do
  round=$((round + 1))
  name="queues $queues, ring page order $order, $indirect segments, persistent grants $persistent"
  within 120 rmmod xen_blkfront || { echo "CHECK FAILED $name: rmmod"; exit 1; }
  insmod /mod/*-xen-blkfront.ko max_queues=$queues max_ring_page_order=$order max_indirect_segments=$indirect \
    feature_persistent=$persistent
  echo "MARK loaded $round"
  within 240 test -b /dev/xvda || { echo "CHECK FAILED $name: no disk"; exit 1; }
  check "fio: $name" fio_verify
  check "fio trims: $name" blkdiscard -o 0 -l 4194304 /dev/xvda
  echo "MARK done $round"
  within 240 not test -b /dev/xvda || { echo "CHECK FAILED $name: the disk stays"; exit 1; }
done < /tmp/combinations
exit 0
