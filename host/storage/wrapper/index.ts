/** The wrappers, by the words that stand for them in a target. */
import { cow } from "./cow.js";
import { delay } from "./delay.js";
import { error } from "./error.js";
import { keyfile } from "./keyfile.js";
import { argumentOf, type Layer, type Rates, type WrapperKind } from "./kind.js";
import { limit } from "./limit.js";
import { log } from "./log.js";
import { readonly } from "./readonly.js";

export const WRAPPERS: Readonly<Record<string, WrapperKind>> = {
  ...{ readonly, cow, delay, error, limit, log },
  keyfile,
};

/** The outermost wrapper of a target, and the target below. */
export interface Wrapped {
  readonly kind: "wrapped";
  readonly wrapper: WrapperKind;
  readonly argument: string;
  readonly inner: string;
}

/** Null where a target has no wrapper. */
export function parseWrapped(text: string): Wrapped | null {
  const colon = text.indexOf(":");
  const word = text.slice(0, colon);
  if (colon < 0 || !Object.hasOwn(WRAPPERS, word)) return null;
  const wrapper = WRAPPERS[word];
  const rest = text.slice(colon + 1);
  if (!wrapper.hasArgument) return { kind: "wrapped", wrapper, argument: "", inner: rest };
  const end = rest.includes(":") ? rest.indexOf(":") : rest.length;
  return { kind: "wrapped", wrapper, argument: rest.slice(0, end), inner: rest.slice(end + 1) };
}

/** The lowest of each rate that a target's wrappers name; null where none does. */
export function ratesIn(target: string): Rates | null {
  const all = layersOf(target).flatMap((layer) => ("rates" in layer ? (layer.rates ?? []) : []));
  const lowest = (key: keyof Rates): number => {
    const some = all.map((rates) => rates[key]).filter((rate) => rate > 0);
    return some.length > 0 ? Math.min(...some) : 0;
  };
  return all.length > 0 ? { iops: lowest("iops"), bps: lowest("bps") } : null;
}

/** From the outermost; none of a target that is not opened, because one is written wrong. */
function layersOf(target: string): Layer[] {
  const wrapped = parseWrapped(target);
  if (wrapped === null) return [];
  try {
    return [layerOf(wrapped), ...layersOf(wrapped.inner)];
  } catch {
    return [];
  }
}

/** The target of an overlay over a target that is no wrapper's, or an overlay's. */
export function overlayOver(path: string, disk: string): string {
  return `cow:${argumentOf(path)}:${disk}`;
}

/** The target below an overlay, which is the outermost layer of a disk; null where none is. */
export function baseOf(disk: string): string | null {
  const wrapped = parseWrapped(disk);
  return wrapped?.wrapper === cow ? wrapped.inner : null;
}

/** The wrappers in front of a disk, as they are written, and the disk: an overlay is a part of that. */
export function splitWrappers(target: string): { wrappers: string; disk: string } {
  const wrapped = parseWrapped(target);
  if (wrapped === null || wrapped.wrapper === cow) return { wrappers: "", disk: target };
  const { wrappers, disk } = splitWrappers(wrapped.inner);
  return { wrappers: target.slice(0, target.length - wrapped.inner.length) + wrappers, disk };
}

/** Throws an Error that says how it is written right. */
export function layerOf({ wrapper, argument, inner }: Wrapped): Layer {
  const { usage } = wrapper;
  if (inner === "") throw new Error(`names no target: write ${usage}`);
  try {
    return wrapper.parse(argument);
  } catch (error) {
    throw new Error(`${(error as Error).message}: write ${usage}`);
  }
}
