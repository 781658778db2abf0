// Expressions of a function, as C. C leaves the order of operands open and WebAssembly does not: whatever has an effect
// becomes a statement of its own, and what was computed before it is kept in a variable if it could be another one after.
import binaryen from "binaryen";
import { visit } from "./effects.mjs";
import { functionName, globalName } from "./names.mjs";
import { BINARY, literal, TYPES, UNARY } from "./operators.mjs";

const info = binaryen.getExpressionInfo;

/** A text that needs no parentheses as an operand. */
function isAtom(text) {
  return (
    (/^[\w.>-]+$/.test(text) && !text.startsWith("-")) || /^\w+\([^()]*(\([^()]*\)[^()]*)*\)$/.test(text)
  );
}

function atom(text) {
  return isAtom(text) ? text : `(${text})`;
}

export class Expressions {
  #hoists = new Map();

  /**
   * `program` says of functions and globals what they are; `locals` are the function's names of variables, `types` their
   * types, and may grow. Subclasses have `line(text)`, `indented(write)` and `statement(expression)`.
   */
  constructor(program, locals, types) {
    this.program = program;
    this.locals = locals;
    this.types = types;
  }

  temporary(type) {
    this.locals.push(this.newName());
    this.types.push(type);
    return this.locals.at(-1);
  }

  newName() {
    let n = 1;
    while (this.locals.includes(`value${n}`)) n++;
    return `value${n}`;
  }

  isConstant(it) {
    return it.id === binaryen.ConstId || (it.id === binaryen.GlobalGetId && !this.program.isState(it.name));
  }

  /** Whether an expression needs statements before the one that it is in. */
  hoists(expression) {
    let found = this.#hoists.get(expression);
    if (found !== undefined) return found;
    found = false;
    visit(expression, (it) => {
      const isStatement = it.id === binaryen.LocalSetId || it.id === binaryen.BlockId;
      if (isStatement || (it.id === binaryen.CallId && this.program.changes(it.target))) found = true;
    });
    this.#hoists.set(expression, found);
    return found;
  }

  #sets(expression, index) {
    let found = false;
    visit(expression, (it) => {
      if (it.id === binaryen.LocalSetId && it.index === index) found = true;
    });
    return found;
  }

  /** The texts of operands, which are evaluated in their order. */
  operands(list) {
    return list.map((expression, i) => {
      const later = list.slice(i + 1).filter((other) => this.hoists(other));
      const text = this.value(expression);
      const it = info(expression);
      if (later.length === 0 || this.isConstant(it)) return text;
      const isLocal = it.id === binaryen.LocalGetId || it.id === binaryen.LocalSetId;
      if (isLocal && !later.some((other) => this.#sets(other, it.index))) return text;
      return this.keep(text, it.type);
    });
  }

  keep(text, type) {
    const name = this.temporary(type);
    this.line(`${name} = ${text};`);
    return name;
  }

  address(ptr, offset) {
    return offset === 0 ? ptr : `${ptr} + ${offset}u`;
  }

  call({ target, operands }) {
    const list = this.operands(operands);
    if (this.program.needsCore(target)) list.unshift("core");
    return `${functionName(target)}(${list.join(", ")})`;
  }

  /** The text of a value. Where it `may`, a call with effects is in it, for a statement that has nothing else. */
  value(expression, may = false) {
    const it = info(expression);
    switch (it.id) {
      case binaryen.ConstId:
        return literal(it.value, it.type);
      case binaryen.LocalGetId:
        return this.locals[it.index];
      case binaryen.GlobalGetId:
        return this.program.isState(it.name) ? `core->${globalName(it.name)}` : globalName(it.name);
      case binaryen.LocalSetId:
        this.line(`${this.locals[it.index]} = ${this.value(it.value, true)};`);
        return this.locals[it.index];
      case binaryen.CallId: {
        const text = this.call(it);
        return may || !this.program.changes(it.target) ? text : this.keep(text, it.type);
      }
      case binaryen.LoadId:
        return this.load(it);
      case binaryen.UnaryId:
        return this.unary(it, may);
      case binaryen.BinaryId:
        return this.binary(it, may);
      case binaryen.BlockId:
        return this.blockValue(it, may);
      case binaryen.IfId:
        return this.ifValue(it);
      case binaryen.SelectId: {
        const [ifTrue, ifFalse, condition] = this.operands([it.ifTrue, it.ifFalse, it.condition]);
        return `${atom(condition)} ? ${atom(ifTrue)} : ${atom(ifFalse)}`;
      }
    }
    throw new Error(`no C for an expression: ${binaryen.emitText(expression)}`);
  }

  load({ bytes, isSigned, ptr, offset, type }) {
    const text = `${this.program.access}load${bytes * 8}(core, ${this.address(this.value(ptr), offset)})`;
    const wide = bytes === (type === binaryen.i64 ? 8 : 4);
    if (isSigned && !wide) return `(${TYPES.get(type)})(int${bytes * 8}_t)${text}`;
    return type === binaryen.i64 && !wide ? `(uint64_t)${text}` : text;
  }

  unary({ op, value }, may) {
    const write = UNARY.get(op);
    if (!write) throw new Error(`no C for the unary operator ${op}`);
    return write(atom(this.value(value, may)));
  }

  binary({ op, left, right }, may) {
    const operator = BINARY.get(op);
    if (!operator) throw new Error(`no C for the binary operator ${op}`);
    const rightInfo = info(right);
    const constant = this.isConstant(rightInfo);
    // A player of sessions may be stopped by a division by 0, as WebAssembly's is.
    if (operator.divides && !constant && !this.program.access)
      throw new Error("no C for a division by what may be 0");
    const [a, b] = constant ? [this.value(left, may), this.value(right)] : this.operands([left, right]);
    const { sign, signed, shifts, bits, compares } = operator;
    if (shifts) {
      const count = rightInfo.id === binaryen.ConstId ? `${rightInfo.value}` : `(${b} & ${bits - 1})`;
      if (!signed) return `${atom(a)} ${sign} ${count}`;
      return `(uint${bits}_t)((int${bits}_t)${atom(a)} ${sign} ${count})`;
    }
    if (!signed) return `${atom(a)} ${sign} ${atom(b)}`;
    const of = (expression, text) => {
      const it = info(expression);
      return it.id === binaryen.ConstId && bits === 32 ? `${it.value}` : `(int${bits}_t)${atom(text)}`;
    };
    const text = `${of(left, a)} ${sign} ${of(right, b)}`;
    return compares ? text : `(uint${bits}_t)(${text})`;
  }

  /** All but the last of a block are statements. */
  blockValue({ name, children }, may) {
    if (name) throw new Error(`no C for the block ${name}, which has a value`);
    for (const child of children.slice(0, -1)) this.statement(child);
    return this.value(children.at(-1), may);
  }

  ifValue({ condition, ifTrue, ifFalse, type }) {
    const test = this.condition(condition);
    if (!this.hoists(ifTrue) && !this.hoists(ifFalse))
      return `${atom(test)} ? ${atom(this.value(ifTrue))} : ${atom(this.value(ifFalse))}`;
    const name = this.temporary(type);
    const branch = (expression) =>
      this.indented(() => this.line(`${name} = ${this.value(expression, true)};`));
    this.line(`if (${test}) {`);
    branch(ifTrue);
    this.line("} else {");
    branch(ifFalse);
    this.line("}");
    return name;
  }

  /** The text of a value of which only counts whether it is 0. */
  condition(expression, may = false) {
    const it = info(expression);
    const isConst = (other, value) => info(other).id === binaryen.ConstId && info(other).value === value;
    if (it.id === binaryen.IfId && !this.hoists(it.ifTrue) && !this.hoists(it.ifFalse)) {
      if (isConst(it.ifFalse, 0)) return this.#joined(it.condition, "&&", it.ifTrue);
      if (isConst(it.ifTrue, 1)) return this.#joined(it.condition, "||", it.ifFalse);
    }
    if (it.id === binaryen.UnaryId && it.op === binaryen.EqZInt32)
      return `!${atom(this.condition(it.value, may))}`;
    if (it.id === binaryen.BinaryId && it.op === binaryen.NeInt32 && isConst(it.right, 0))
      return this.condition(it.left, may);
    return this.value(expression, may);
  }

  #joined(left, sign, right) {
    return [left, right]
      .map((expression) => {
        const text = this.condition(expression);
        return text.includes(` ${sign} `) && !/&&|\|\|/.test(text.replaceAll(` ${sign} `, ""))
          ? text
          : atom(text);
      })
      .join(` ${sign} `);
  }
}
