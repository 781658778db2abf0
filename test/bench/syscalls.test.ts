import assert from "node:assert/strict";
import { test } from "node:test";
import { parsePerf, parseStrace } from "../../bench/plane/syscalls.js";

test("what perf stat says", () => {
  const said =
    "21704,,raw_syscalls:sys_enter,1000,100.00,,\n19466,,syscalls:sys_enter_io_uring_enter,1000,100.00,,\n";
  assert.deepEqual(parsePerf(said), { total: 21704, enters: 19466 });
  const nothing =
    "<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n<not counted>,,syscalls:sys_enter_io_uring_enter,0,,,\n";
  assert.deepEqual(parsePerf(nothing), { total: 0, enters: 0 });
});

test("what strace -c says", () => {
  const said = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 90.00    0.010000          10      1000           io_uring_enter
  9.00    0.001000           1       200         7 read
  1.00    0.000000           0        30           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.011000           8      1230         7 total
`;
  assert.deepEqual(parseStrace(said), { total: 1230, enters: 1000 });
});
