/** Reads build/c/blkif-core.c as text: which function accesses what the guest can write, and how. */

/** A function of the C file. */
export interface CFunction {
  readonly name: string;
  readonly body: string;
}

export function functionsOf(text: string): CFunction[] {
  const found = text.matchAll(/^[\w ]*?\*?(\w+)\([^;{}()]*\)\n\{\n(.*?)^\}$/gms);
  return Array.from(found, ([, name, body]) => ({ name, body }));
}

/** Names of addresses that the guest can write at: SRING_ENTRIES and the like. */
const GUEST = /\bXBD_SRING\w*/;

/** The arguments of each call of `name` in a text, as one text each; nested calls are counted in. */
function calls(body: string, name: string): string[][] {
  return Array.from(body.matchAll(new RegExp(`\\b${name}\\(`, "g")), ({ index }) => {
    const list = [""];
    let depth = 1;
    for (let at = index + name.length + 1; depth > 0; at++) {
      const letter = body[at];
      if (letter === "(") depth++;
      if (letter === ")" && --depth === 0) break;
      if (letter === "," && depth === 1) list.push("");
      else list[list.length - 1] += letter;
    }
    return list.map((argument) => argument.trim());
  });
}

/** The variables of a function that hold such addresses, or sums with them. */
function guestAddresses(body: string): string[] {
  const found: string[] = [];
  for (let before = -1; before !== found.length; ) {
    before = found.length;
    for (const [, variable, value] of body.matchAll(/^\t+(\w+) = (.*);$/gm)) {
      if (!found.includes(variable) && reaches(value, found)) found.push(variable);
    }
  }
  return found;
}

/** Whether a value may be such an address. What was read there is none: it is only a number. */
function reaches(text: string, variables: readonly string[]): boolean {
  const reads = calls(text, "shared_loadShared").map((list) => `(${list.join(", ")})`);
  const value = reads.reduce((rest, argument) => rest.replace(`shared_loadShared${argument}`, "0"), text);
  return GUEST.test(value) || variables.some((name) => new RegExp(`\\b${name}\\b`).test(value));
}

const PLAIN = [
  "load8",
  "load16",
  "load32",
  "load64",
  "store8",
  "store16",
  "store32",
  "store64",
  "fill",
  "move",
];

/** Accesses to what the guest can write that are not atomic, and calls that take such an address elsewhere. */
export function plainAccesses({ name, body }: CFunction, known: readonly string[]): string[] {
  const variables = guestAddresses(body);
  const found: string[] = [];
  for (const access of PLAIN) {
    // What is stored may be an address: iovecs consist of them. Where it is stored may not.
    for (const [, at] of calls(body, access))
      if (reaches(at, variables)) found.push(`${name}: ${access} at ${at}`);
  }
  for (const callee of known.filter((it) => !it.startsWith("shared_") && !PLAIN.includes(it))) {
    for (const list of calls(body, callee))
      for (const argument of list)
        if (reaches(argument, variables)) found.push(`${name}: ${callee}(${argument})`);
  }
  return found;
}
