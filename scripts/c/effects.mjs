// What each function does besides computing a value: whether it changes anything, and whether it needs the core at all.
import binaryen from "binaryen";

const { SideEffects } = binaryen;
const CHANGES =
  SideEffects.WritesMemory | SideEffects.WritesGlobal | SideEffects.IsAtomic | SideEffects.ReadsTable;
const NEEDS = CHANGES | SideEffects.ReadsMemory | SideEffects.ReadsGlobal;

/** Calls `see` with the information on every expression of a tree. */
export function visit(expression, see) {
  if (!expression) return;
  const info = binaryen.getExpressionInfo(expression);
  see(info);
  if (info.id === binaryen.ConstId) return;
  for (const [key, value] of Object.entries(info)) {
    if (CHILDREN.has(key)) visit(value, see);
    else if (LISTS.has(key)) for (const child of value) visit(child, see);
  }
}

const CHILDREN = new Set([
  "condition",
  "ifTrue",
  "ifFalse",
  "body",
  "value",
  "left",
  "right",
  "ptr",
  "dest",
  "source",
  "size",
]);
const LISTS = new Set(["children", "operands"]);

function effectsOfBody(module, body) {
  const calls = new Set();
  visit(body, ({ id, target }) => {
    if (id === binaryen.CallId) calls.add(target);
  });
  const found = binaryen.getSideEffects(body, module);
  return { changes: (found & CHANGES) !== 0, needsCore: (found & NEEDS) !== 0, calls };
}

/** Gives what one of them does to all that call it. */
function spread(effects, what) {
  const does = (it) => it[what] || [...it.calls].some((called) => effects.get(called)[what]);
  for (let before = -1, now = 0; before !== now; ) {
    before = now;
    for (const it of effects.values()) it[what] = does(it);
    now = [...effects.values()].filter((it) => it[what]).length;
  }
}

/** By function name: {changes, needsCore, calls}. `outside` names the functions that are written by hand, which do both. */
export function effectsOf(module, functions, outside) {
  const effects = new Map(functions.map(({ name, body }) => [name, effectsOfBody(module, body)]));
  for (const name of outside) effects.set(name, { changes: true, needsCore: true, calls: new Set() });
  spread(effects, "changes");
  spread(effects, "needsCore");
  return effects;
}
