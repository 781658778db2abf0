/** What the players find wrong while a ring calls them: it may well catch what they throw, as a fault of its own. */
const faults: string[] = [];

export function insist(condition: boolean, fault: string): asserts condition {
  if (condition) return;
  faults.push(fault);
  throw new Error(fault);
}

/** What was found since this was last asked. */
export function takeFaults(): string[] {
  return faults.splice(0);
}
