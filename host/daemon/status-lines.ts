/** The status of everything as lines for the log: what SIGUSR1 asks for. */
import { stateName } from "../platform/xenbus-state.js";
import { describeStatus, type VbdStatus } from "../vbd/status.js";
import type { LogContext } from "../vbd/vbd-log.js";
import type { Daemon } from "./serve.js";

interface Line {
  readonly text: string;
  readonly context?: LogContext;
}

/** A line for the whole, one for each reactor thread, one for each vbd and one for each of its rings. */
export function statusLines({ backend, reactor }: Pick<Daemon, "backend" | "reactor">): Line[] {
  const vbds = backend.status();
  return [
    { text: `xbdback: ${vbds.length} vbds, ${reactor.mappedPages} pages of guests mapped` },
    ...reactor.threads.map(({ engine, rings, passes }, i) => ({
      text: `xbdback: reactor ${i}: ${engine}, ${rings} rings, ${passes} passes`,
    })),
    ...vbds.flatMap((vbd) => linesOf(vbd, backend)),
  ];
}

function linesOf(status: VbdStatus, backend: Daemon["backend"]): Line[] {
  const { name, domid, devid, state, frontendState, inflight, device } = status;
  const context = { vbd: { domid, devid } };
  const states = `backend ${stateName(state)}, frontend ${stateName(frontendState)}`;
  return [
    {
      text: `${name}: ${device ?? "no disk"}, ${states}, ${inflight} in flight, ${describeStatus(status)}`,
      context,
    },
    ...backend
      .vbd(name)
      .rings()
      .map(({ reqProd, reqCons, rspProd, requests, oldestSeconds }, i) => {
        const oldest = oldestSeconds === null ? "" : `, the oldest for ${oldestSeconds.toFixed(1)} s`;
        const indices = `req_prod ${reqProd}, req_cons ${reqCons}, rsp_prod ${rspProd}`;
        return { text: `${name}: ring ${i}: ${indices}, ${requests.length} in flight${oldest}`, context };
      }),
  ];
}
