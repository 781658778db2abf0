// WebAssembly's integer operators in C11, where every value is a uint32_t or a uint64_t: what is undefined for C's signed
// numbers never happens, and a signed operator casts what it takes.
import binaryen from "binaryen";

const OPERATORS = {
  Add: { sign: "+" },
  Sub: { sign: "-" },
  Mul: { sign: "*" },
  And: { sign: "&" },
  Or: { sign: "|" },
  Xor: { sign: "^" },
  Shl: { sign: "<<", shifts: true },
  ShrU: { sign: ">>", shifts: true },
  ShrS: { sign: ">>", shifts: true, signed: true },
  DivU: { sign: "/", divides: true },
  DivS: { sign: "/", divides: true, signed: true },
  RemU: { sign: "%", divides: true },
  Eq: { sign: "==", compares: true },
  Ne: { sign: "!=", compares: true },
  LtU: { sign: "<", compares: true },
  LtS: { sign: "<", compares: true, signed: true },
  LeU: { sign: "<=", compares: true },
  LeS: { sign: "<=", compares: true, signed: true },
  GtU: { sign: ">", compares: true },
  GtS: { sign: ">", compares: true, signed: true },
  GeU: { sign: ">=", compares: true },
  GeS: { sign: ">=", compares: true, signed: true },
};

/** By Binaryen's number: {name, sign, bits, and which of shifts, divides, compares and signed it is}. */
export const BINARY = new Map(
  Object.entries(OPERATORS).flatMap(([name, operator]) =>
    [32, 64].map((bits) => [binaryen[`${name}Int${bits}`], { name, bits, ...operator }]),
  ),
);

/** By Binaryen's number, a function from C's text, an atom or in parentheses, to C's text. */
export const UNARY = new Map([
  [binaryen.EqZInt32, (value) => `!${value}`],
  [binaryen.EqZInt64, (value) => `!${value}`],
  [binaryen.WrapInt64, (value) => `(uint32_t)${value}`],
  [binaryen.ExtendUInt32, (value) => `(uint64_t)(uint32_t)${value}`],
  [binaryen.ExtendSInt32, (value) => `(uint64_t)(int32_t)${value}`],
  [binaryen.CtzInt64, (value) => `count_trailing_zeros(${value})`],
]);

/** The type of a value in C, by Binaryen's number. */
export const TYPES = new Map([
  [binaryen.none, "void"],
  [binaryen.i32, "uint32_t"],
  [binaryen.i64, "uint64_t"],
]);

/** A constant in C. `signed` makes it comparable with an int32_t. */
export function literal(value, type, signed = false) {
  if (type === binaryen.i64) return `UINT64_C(${BigInt.asUintN(64, BigInt(value))})`;
  return signed ? `${value}` : `${value >>> 0}u`;
}
