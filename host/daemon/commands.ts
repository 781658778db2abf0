/** What the daemon does for those who ask at its control socket. */
import type { RingHost } from "../reactor/ring-host.js";
import { type Limits, NO_LIMITS } from "../reactor/throttle.js";
import { quote } from "../vbd/diagnostics.js";
import type { Backend } from "./backend.js";
import { ControlError, type ControlHandler, type ControlRequest, sayBusy } from "./control.js";
import type { Events } from "./events.js";
import { isCommitted, type ReplacedImages } from "./replaced-images.js";
import { commit, record, trace } from "./streams.js";
import { VERSION } from "./version.js";

type Command = ControlHandler;

/**
 * - `version`: the package's `version`, `pid`, `started`, `node`, `reactors`, the number of `vbds`, and what `serve` tells
 *   of itself: a DaemonStatus of host/cli/commands/status.ts.
 * - `list`: `vbds`, each a VbdStatus, `mappedPages`, and `reactors`, each a ReactorStatus.
 * - `show`, `vbd` a name as in the list: `vbd`, its VbdStatus, and `rings`, each a RingState.
 * - `resize`, `vbd`: `size` in bytes, once the guest was told of it.
 * - `change`, `vbd`, `target`, of a medium for a CD-ROM drive, or "" for none: `device`, its name, its `size` in bytes, and
 *   `waitsFor`, once a guest that is connected has it.
 * - `snapshot`, `vbd`, `overlay`, a path: `target`, what the disk is from now on, and `size` in bytes.
 * - `commit`, `vbd`: CommitLines; given up when the asker closes the connection.
 * - `replaced`: `images`, each a Replacement.
 * - `forget`, `image`, a path: nothing, once the image counts as not replaced.
 * - `pause`, `vbd`, `paused`: `inflight`, what is still in flight.
 * - `limit`, `vbd`, `limits`, some or none of the fields of Limits, or null for the configuration's: the `limits` from now
 *   on, and `limitsFrom`, where they are from.
 * - `events`: EventLines without end.
 * - `trace`, `vbd`, perhaps `ring`, a number: TraceLines without end.
 * - `record`, `vbd`, `ring`: RecordLines.
 * - `handover`: the daemon stops, and answers with `unreleased`, each an Unreleased, as soon as it has released all disks that it can.
 */
export function commands(
  backend: Backend,
  reactor: RingHost,
  events: Events,
  replaced: ReplacedImages,
  about: () => object = () => ({}),
  handOver?: () => Promise<object>,
): ControlHandler {
  const vbd = (request: ControlRequest) => backend.vbd(String(request["vbd"] ?? ""));
  const table: Record<string, Command> = {
    version: () => ({
      version: VERSION,
      pid: process.pid,
      started: new Date(Date.now() - process.uptime() * 1000).toISOString(),
      node: process.version,
      reactors: reactor.threads,
      vbds: backend.status().length,
      ...about(),
    }),
    list: () => ({ vbds: backend.status(), mappedPages: reactor.mappedPages, reactors: reactor.threads }),
    show: (request) => ({ vbd: vbd(request).status(), rings: vbd(request).rings() }),
    pause: async (request) => {
      await vbd(request).throttle({ paused: request["paused"] === true });
      return { inflight: vbd(request).status().inflight };
    },
    limit: async (request) => {
      const wanted = request["limits"];
      await vbd(request).throttle({ limits: wanted === null ? null : readLimits(wanted) });
      const { limits, limitsFrom } = vbd(request).status();
      return { limits, limitsFrom };
    },
    events: (_, signal) => events.follow(signal),
    trace: (request, signal) => trace(vbd(request), readRing(request["ring"]), signal),
    record: (request, signal) => record(vbd(request), readRing(request["ring"]) ?? 0, signal),
    ...(handOver && { handover: handOver }),
    snapshot: async (request) => {
      const disk = vbd(request);
      const target = await disk.snapshot(String(request["overlay"] ?? "")).catch(sayBusy);
      return { target, size: disk.status().size };
    },
    commit: (request, signal) => commit(vbd(request), signal),
    replaced: () => ({ images: replaced.all() }),
    forget: async (request) => {
      const image = String(request["image"] ?? "");
      const one = await replaced.find(image);
      if (one === null)
        throw new ControlError(
          `${quote(image)} was not replaced: \`xbdback replaced\` shows all`,
          "not-found",
        );
      const user = backend.status().find(({ device }) => device?.endsWith(one.current));
      if (user && !isCommitted(one, image))
        throw new ControlError(`${user.name} has ${one.current}: detach that first`, "busy");
      await replaced.forget(one, image);
      return {};
    },
    change: async (request) => {
      const disk = vbd(request);
      await disk.change(String(request["target"] ?? "")).catch(sayBusy);
      const { device, size, waitsFor } = disk.status();
      return { device, size, waitsFor };
    },
    resize: async ({ vbd }) => ({ size: await backend.resize(String(vbd ?? "")) }),
  };
  return (request, signal) => {
    if (!Object.hasOwn(table, request.command)) throw new Error(`unknown command ${quote(request.command)}`);
    return table[request.command](request, signal);
  };
}

function readRing(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}

/** The limits that a request names. Throws when one is no limit. */
function readLimits(value: unknown): Partial<Limits> {
  const wanted = Object.entries(value ?? {}).map(([name, limit]): [string, number] => {
    const good = Object.hasOwn(NO_LIMITS, name) && typeof limit === "number" && limit >= 0 && limit <= 1e15;
    if (!good)
      throw new Error(`${quote(name)} is not a limit: those are iops, bps and burst, each a number from 0`);
    return [name, limit];
  });
  return Object.fromEntries(wanted);
}
