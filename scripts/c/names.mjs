// From AssemblyScript's names to C's.

const KEYWORDS = new Set([
  "switch",
  "default",
  "register",
  "signed",
  "unsigned",
  "core",
  "small",
  "large",
  "near",
  "far",
]);

/** "assembly/request/Request#get:state" becomes request_get_state. */
export function functionName(name) {
  return name
    .replace(/^assembly\//, "")
    .replace(/\/\w+#/, "/")
    .replace(/\W/g, "_");
}

/** "assembly/ring/taken" becomes ring_taken: a constant, or a field of the core's state. */
export function globalName(name) {
  const constant = /^assembly\/abi\/(\w+)$/.exec(name);
  return constant ? `XBD_${constant[1]}` : functionName(name);
}

/** Names for the locals of a function, or its labels: each another, and none a word of C. */
export function distinct(names, taken = new Set()) {
  return names.map((name) => {
    const plain = name.replace(/\W/g, "_").replace(/^(?=\d)/, "t");
    let free = KEYWORDS.has(plain) ? `${plain}_` : plain;
    for (let i = 2; taken.has(free); i++) free = `${plain}_${i}`;
    taken.add(free);
    return free;
  });
}
