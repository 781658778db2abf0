/** The daemon on the loopback platform: everything that `xbdback serve` is, from start to stop. */
import { join } from "node:path";
import { openDomain, openXenstore, type Platform } from "../platform/platform.js";
import { Reactor } from "../reactor/reactor.js";
import { quote } from "../vbd/diagnostics.js";
import type { VbdHost } from "../vbd/vbd.js";
import { Backend } from "./backend.js";
import { ControlServer } from "./control.js";

export interface ServeOptions extends Pick<VbdHost, "features" | "log" | "open"> {
  /** Of the loopback machine. */
  readonly directory: string;
}

export interface Daemon {
  /** Lets go of everything and leaves xenstore as it is. */
  stop(): Promise<void>;
}

export function controlSocket(directory: string): string {
  return join(directory, "control.sock");
}

/**
 * Joins the loopback machine as domain 0 and serves every vbd of it. `lost` is called if xenstored goes away. Rejects,
 * with nothing left open, when there is no such machine or it has a daemon.
 */
export async function serve(options: ServeOptions, lost: (error: Error) => void): Promise<Daemon> {
  const { directory, ...host } = options;
  /** What undoes what was done, last thing first. */
  const undo: (() => unknown)[] = [];
  const stop = async (): Promise<void> => {
    let failure: unknown = null;
    for (let step = undo.pop(); step; step = undo.pop()) {
      try {
        await step();
      } catch (error) {
        failure ??= error;
      }
    }
    if (failure) throw failure;
  };
  try {
    const platform: Platform = { kind: "loopback", directory, domid: 0 };
    const xenstore = await openXenstore(platform);
    undo.push(() => xenstore.close());
    const domain = await openDomain(platform);
    undo.push(() => domain.close());
    const reactor = new Reactor(await domain.eventChannels(), await domain.grantTable());
    undo.push(() => reactor.close());
    const backend = new Backend({ ...host, xenstore, reactor, domid: platform.domid, kind: "vbd" });
    const control = await ControlServer.listen(controlSocket(directory), ({ command }) => {
      if (command === "list") return { vbds: backend.status(), mappedPages: reactor.mappedPages };
      throw new Error(`there is no command ${quote(command)}`);
    });
    undo.push(
      () => backend.stop(),
      () => control.close(),
    );
    xenstore.onClose = lost;
    undo.push(() => {
      xenstore.onClose = null;
    });
    await backend.start();
  } catch (error) {
    await stop().catch(() => {});
    throw error;
  }
  return { stop };
}
