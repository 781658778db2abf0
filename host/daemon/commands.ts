/** What the daemon does for those who ask at its control socket. */
import type { RingHost } from "../reactor/ring-host.js";
import { quote } from "../vbd/diagnostics.js";
import type { Backend } from "./backend.js";
import type { ControlHandler, ControlRequest } from "./control.js";
import { VERSION } from "./version.js";

type Command = (request: ControlRequest) => object | Promise<object>;

/**
 * - `version`: the package's `version`.
 * - `list`: `vbds`, each a VbdStatus, `mappedPages`, and `reactors`, each a ReactorStatus.
 * - `show`, `vbd` a name as in the list: `vbd`, its VbdStatus, and `rings`, each a RingState.
 * - `resize`, `vbd`: `size` in bytes, once the guest was told of it.
 */
export function commands(backend: Backend, reactor: RingHost): ControlHandler {
  const vbd = (request: ControlRequest) => backend.vbd(String(request["vbd"] ?? ""));
  const table: Record<string, Command> = {
    version: () => ({ version: VERSION }),
    list: () => ({ vbds: backend.status(), mappedPages: reactor.mappedPages, reactors: reactor.threads }),
    show: (request) => ({ vbd: vbd(request).status(), rings: vbd(request).rings() }),
    resize: async ({ vbd }) => ({ size: await backend.resize(String(vbd ?? "")) }),
  };
  return (request) => {
    if (!Object.hasOwn(table, request.command))
      throw new Error(`there is no command ${quote(request.command)}`);
    return table[request.command](request);
  };
}
