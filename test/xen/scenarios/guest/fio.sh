# Each job of the benchmark on xvda, one after the other, those with more than one request on both queues; "BENCH job iops kibs" for each.
within 240 test -b /dev/xvda
dmesg | grep blkfront:
# run NAME RW BLOCKSIZE DEPTH JOBS SECONDS
run() {
  /tools/bin/fio --name=$1 --filename=/dev/xvda --rw=$2 --bs=$3 --iodepth=$4 --numjobs=$5 --runtime=$6 --thread --group_reporting \
    --ioengine=libaio --direct=1 --time_based --ramp_time=1 --output-format=terse --terse-version=3
}
# A backend that compiles as it runs has done so before it is measured; each is given the same.
for bs in 4k 128k; do run warm-up randrw $bs 4 2 10 > /dev/null; done
echo "MARK fio-begins"
while read -r job rw bs depth jobs; do
  run $job $rw $bs $depth $jobs 5 |
    awk -F';' -v job=$job 'NF > 50 { print "BENCH", job, $8 + $49, $7 + $48 }'
done <<'JOBS'
randread-4k-qd1 randread 4k 1 1
randread-4k-qd32 randread 4k 16 2
randwrite-4k-qd1 randwrite 4k 1 1
randwrite-4k-qd32 randwrite 4k 16 2
read-128k-qd4 read 128k 2 2
write-128k-qd4 write 128k 2 2
JOBS
echo "MARK fio-ends"
exit 0
