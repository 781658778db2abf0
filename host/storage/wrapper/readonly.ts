/** readonly:TARGET. The target is opened for reading, by any number of users, whatever the mode of the disk. */
import type { WrapperKind } from "./kind.js";

export const readonly: WrapperKind = {
  usage: "readonly:TARGET",
  hasArgument: false,
  parse: () => ({ readsOnly: true }),
};
