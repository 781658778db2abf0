/** keyfile:FILE:TARGET. The file has the passphrase of the image below, or the password at its web server: see key-file.ts. */
import { pathOf, type WrapperKind } from "./kind.js";

export const keyfile: WrapperKind = {
  usage: "keyfile:FILE:TARGET, with the file's absolute path",
  hasArgument: true,
  parse: (argument) => ({ keyFile: pathOf(argument) }),
};
