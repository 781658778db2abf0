/** `npm run build:wasi`: builds the WASI command and says where it is. */
import { relative } from "node:path";
import { buildSession } from "./build.js";

process.stdout.write(`${relative(process.cwd(), buildSession("wasi"))}\n`);
