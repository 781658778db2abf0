/** What host/platform/xen/abi.ts says of Linux's structures and ioctl numbers, against a C compiler's view of them. */
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as abi from "../../host/platform/xen/abi.js";
import { cannotCompile, compile } from "../vectors/compiler.js";

const source = fileURLToPath(new URL("../../../test/platform/abi.c", import.meta.url));

test("gntdev's, evtchn's and privcmd's structures and ioctls are where a C compiler sees them", {
  skip: cannotCompile("-m64"),
}, () => {
  const numbers = Object.entries(abi).filter(([, value]) => typeof value === "number");
  compile(
    source,
    numbers.map(([name, value]) => `-D${name}=${value}`),
  );
});
