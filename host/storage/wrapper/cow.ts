/** cow:OVERLAY:TARGET. The target is only read, and what is written goes to a qcow2 image over it: see helper/overlay.ts. */
import { pathOf, type WrapperKind } from "./kind.js";

export const cow: WrapperKind = {
  usage: "cow:OVERLAY:TARGET, with the overlay's absolute path",
  hasArgument: true,
  parse: (argument) => ({ overlay: pathOf(argument) }),
};
