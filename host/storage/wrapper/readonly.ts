/** readonly:TARGET. The target is opened for reading, by any number of users, whatever the mode of the disk. */
import type { WrapperKind } from "./kind.js";
import { Wrapper } from "./wrapper.js";

export const readonly: WrapperKind = {
  usage: "readonly:TARGET",
  hasArgument: false,
  parse: () => ({
    // The disk below refuses what would change it.
    readsOnly: true,
    open: (inner, { name }) => new Wrapper(name, "read-only", inner),
  }),
};
