/** A backend whose disks are FIFOs, of which the kernel says that they cannot be flushed. `flush-failer.js DIRECTORY FIFO` */
import { constants, openSync } from "node:fs";
import { libuvEngine } from "../../host/storage/libuv.js";
import { openStore } from "../../host/storage/open.js";
import { RawDevice } from "../../host/storage/raw.js";
import { serveDisks } from "./backend.js";

await serveDisks(async (path, options) => {
  const store = await openStore(path, options);
  return new RawDevice({ ...store, fd: openSync(process.argv[3], constants.O_RDWR) }, libuvEngine);
});
