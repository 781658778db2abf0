// One function, as C: its statements.
import binaryen from "binaryen";
import { visit } from "./effects.mjs";
import { Expressions } from "./expression.mjs";
import { distinct, functionName, globalName } from "./names.mjs";
import { TYPES } from "./operators.mjs";

const info = binaryen.getExpressionInfo;

/** A loop as AssemblyScript makes it of while and for: if the condition holds, the body, and from the beginning. */
function asWhile({ name, body }) {
  const test = info(body);
  if (test.id !== binaryen.IfId || test.ifFalse) return null;
  const block = info(test.ifTrue);
  if (block.id !== binaryen.BlockId || block.name) return null;
  const last = info(block.children.at(-1));
  if (last.id !== binaryen.BreakId || last.name !== name || last.condition) return null;
  return { condition: test.condition, children: block.children.slice(0, -1) };
}

class Writer extends Expressions {
  lines = [];
  #indent = 1;
  /** The names of loops around the current statement, innermost last. */
  #loops = [];
  #labels = new Map();
  #used = new Set();

  labels(body) {
    const names = [];
    visit(body, (it) => {
      if ((it.id === binaryen.BlockId || it.id === binaryen.LoopId) && it.name) names.push(it.name);
    });
    const free = distinct(names, new Set(this.locals));
    for (const [i, name] of names.entries()) this.#labels.set(name, free[i]);
  }

  line(text) {
    this.lines.push(`${"\t".repeat(this.#indent)}${text}`);
  }

  label(name) {
    this.lines.push(`${"\t".repeat(this.#indent - 1)}${this.#labels.get(name)}:;`);
  }

  indented(write) {
    this.#indent++;
    write();
    this.#indent--;
  }

  statements(list) {
    for (const expression of list) this.statement(expression);
  }

  statement(expression) {
    const it = info(expression);
    switch (it.id) {
      case binaryen.BlockId:
        this.statements(it.children);
        if (it.name && this.#used.has(it.name)) this.label(it.name);
        return;
      case binaryen.LoopId:
        this.#loop(it);
        return;
      case binaryen.IfId:
        this.#if(it);
        return;
      case binaryen.BreakId:
        this.#break(it);
        return;
      case binaryen.ReturnId:
        this.line(it.value ? `return ${this.value(it.value, true)};` : "return;");
        return;
      case binaryen.LocalSetId:
        this.value(expression);
        return;
      case binaryen.GlobalSetId:
        this.line(`core->${globalName(it.name)} = ${this.value(it.value, true)};`);
        return;
      case binaryen.CallId:
        this.line(`${this.call(it)};`);
        return;
      case binaryen.StoreId: {
        const [ptr, value] = this.operands([it.ptr, it.value]);
        const narrow =
          it.bytes < 4 && info(it.value).id === binaryen.ConstId ? `(uint${it.bytes * 8}_t)` : "";
        this.line(
          `${this.program.access}store${it.bytes * 8}(core, ${this.address(ptr, it.offset)}, ${narrow}${value});`,
        );
        return;
      }
      case binaryen.MemoryFillId:
        this.line(
          `${this.program.access}fill(core, ${this.operands([it.dest, it.value, it.size]).join(", ")});`,
        );
        return;
      case binaryen.MemoryCopyId:
        this.line(
          `${this.program.access}move(core, ${this.operands([it.dest, it.source, it.size]).join(", ")});`,
        );
        return;
      case binaryen.DropId:
        if (info(it.value).id === binaryen.CallId) this.line(`${this.value(it.value, true)};`);
        else this.value(it.value);
        return;
      case binaryen.NopId:
        return;
    }
    // The value of a function's last expression.
    if (it.type === binaryen.i32 || it.type === binaryen.i64)
      this.line(`return ${this.value(expression, true)};`);
    else throw new Error(`no C for a statement: ${binaryen.emitText(expression)}`);
  }

  #if({ condition, ifTrue, ifFalse }, before = "") {
    this.line(`${before}if (${this.condition(condition, true)}) {`);
    this.indented(() => this.statement(ifTrue));
    const other = ifFalse && info(ifFalse);
    if (other?.id === binaryen.IfId && other.type !== binaryen.i32 && !this.hoists(other.condition)) {
      this.#if(other, "} else ");
      return;
    }
    if (other) {
      this.line("} else {");
      this.indented(() => this.statement(ifFalse));
    }
    this.line("}");
  }

  #loop(it) {
    const simple = asWhile(it);
    const at = this.lines.length;
    this.#loops.push(it.name);
    if (simple && !this.hoists(simple.condition)) {
      this.line(`while (${this.condition(simple.condition)}) {`);
      this.indented(() => this.statements(simple.children));
    } else {
      this.line("for (;;) {");
      this.indented(() => {
        if (simple) {
          this.line(`if (!(${this.condition(simple.condition, true)}))`);
          this.indented(() => this.line("break;"));
          this.statements(simple.children);
        } else {
          this.statement(it.body);
          this.line("break;");
        }
      });
    }
    this.line("}");
    this.#loops.pop();
    if (!this.#used.has(it.name)) return;
    const body = this.lines.splice(at);
    this.label(it.name);
    this.lines.push(...body);
  }

  #break({ name, condition, value }) {
    if (value) throw new Error(`no C for a break with a value, to ${name}`);
    let jump = "continue;";
    if (this.#loops.at(-1) !== name) {
      this.#used.add(name);
      jump = `goto ${this.#labels.get(name)};`;
    }
    if (!condition) {
      this.line(jump);
      return;
    }
    this.line(`if (${this.condition(condition, true)})`);
    this.indented(() => this.line(jump));
  }
}

function parameters({ name, params }, locals, program) {
  const list = params.map((type, i) => `${TYPES.get(type)} ${locals[i]}`);
  if (program.needsCore(name)) list.unshift("struct xbd_core *core");
  return list.join(", ") || "void";
}

/** {prototype, text} of a function: {name, params, results, vars, locals, body, comment}. `program` as in Expressions. */
export function translate(it, program) {
  const locals = distinct(it.locals, new Set(program.names));
  const types = [...it.params, ...it.vars];
  const count = it.params.length;
  const writer = new Writer(program, locals, types);
  writer.labels(it.body);
  writer.statement(it.body);
  const prototype = `static ${TYPES.get(it.results)} ${functionName(it.name)}(${parameters(it, locals, program)})`;
  const text = [];
  if (it.comment) text.push(it.comment);
  text.push(prototype, "{");
  for (const [type, name] of TYPES) {
    const declared = writer.locals.filter((_, i) => i >= count && writer.types[i] === type);
    if (declared.length > 0) text.push(`\t${name} ${declared.map((local) => `${local} = 0`).join(", ")};`);
  }
  if (text.at(-1) !== "{") text.push("");
  text.push(...writer.lines, "}", "");
  return { prototype: `${prototype};`, text: text.join("\n") };
}
