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

/** As a sentence has it: "state 4, Connected". */
export function stateInWords(state: XenbusState): string {
  return `state ${state}, ${NAMES.get(state) ?? "unknown"}`;
}

/**
 * A node's number as Linux and libxl read it, sscanf("%d"): white space, a sign and leading zeros may be in front, and what
 * follows the digits does not count ("4\n" of a shell's echo is 4). Null where no number is.
 */
export function scanNumber(value: string | null): number | null {
  const match = /^[ \t\n\v\f\r]*([-+]?[0-9]+)/.exec(value ?? "");
  return match ? Number(match[1]) : null;
}

/** A state node's value; what is not one of XenBus's states counts as Unknown. */
export function parseState(value: string | null): XenbusState {
  const state = scanNumber(value);
  return state !== null && state >= 0 && state <= 9 ? state : XenbusState.Unknown;
}
