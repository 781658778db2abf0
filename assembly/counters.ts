import { COUNTER_COUNT, COUNTERS } from "./abi";

export function count(counter: u32, by: u64): void {
  assert(counter < <u32>COUNTER_COUNT);
  const at = COUNTERS + (counter << 3);
  store<u64>(at, load<u64>(at) + by);
}

export function resetCounters(): void {
  memory.fill(COUNTERS, 0, COUNTER_COUNT * 8);
}
