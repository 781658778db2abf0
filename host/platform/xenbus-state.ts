/** XenBus states (xen/include/public/io/xenbus.h), as both ends of a device write them in xenstore. */
export const XenbusState = {
  /** The node is not there. */
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;
export type XenbusState = number;

const NAMES = new Map(Object.entries(XenbusState).map(([name, value]) => [value as number, name]));

/** "Connected (4)". */
export function stateName(state: XenbusState): string {
  return `${NAMES.get(state) ?? "no state"} (${state})`;
}

/** A state node's value; anything that is not a single digit counts as Unknown. */
export function parseState(value: string | null): XenbusState {
  return value !== null && /^[0-9]$/.test(value) ? Number(value) : XenbusState.Unknown;
}
