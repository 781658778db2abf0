/** What the daemon does for those who ask at its control socket. */
import type { RingHost } from "../reactor/ring-host.js";
import { quote } from "../vbd/diagnostics.js";
import type { Backend } from "./backend.js";
import type { ControlHandler } from "./control.js";

/**
 * - `list`: `vbds`, each a VbdStatus, `mappedPages`, and `reactors`, each a ReactorStatus.
 * - `resize`, `vbd` a name as in the list: `size` in bytes, once the guest was told of it.
 */
export function commands(backend: Backend, reactor: RingHost): ControlHandler {
  return async ({ command, vbd }) => {
    if (command === "list") {
      return { vbds: backend.status(), mappedPages: reactor.mappedPages, reactors: reactor.threads };
    }
    if (command === "resize") return { size: await backend.resize(String(vbd ?? "")) };
    throw new Error(`there is no command ${quote(command)}`);
  };
}
