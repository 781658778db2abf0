/** The command line of nbdkit, which serves a web server's file on a private socket over NBD, and ends with its one client. */
import { dirname } from "node:path";
import type { HelperCommand } from "./command.js";

export function nbdkit(url: string, socket: string): HelperCommand {
  return {
    program: "nbdkit",
    package: "nbdkit",
    reach: { files: [], configuration: [], directory: dirname(socket), remote: true },
    args: [
      ...["--foreground", "--exit-with-parent", "--unix", socket, "--readonly", "--filter=exitlast"],
      ...["curl", `url=${url}`],
    ],
  };
}
