/**
 * Which build this is. A thread loads its modules when it starts, and another release may lie there by then, whose threads and
 * this one's main thread would misunderstand each other.
 */

/** scripts/bundle.mjs puts a hash there of all that the command runs; modules that are not bundled are all of this one. */
export const BUILD: string = "@BUILD@";
