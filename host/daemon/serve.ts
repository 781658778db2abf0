/** The daemon on the loopback platform: everything that `xbdback serve` is, from start to stop. */
import { join } from "node:path";
import { xenstoreSocket } from "../platform/loopback/host.js";
import { openDomain } from "../platform/loopback/index.js";
import { connectXenstore } from "../platform/xenstore/client.js";
import { Reactor } from "../reactor/reactor.js";
import type { Features } from "../vbd/backend-keys.js";
import { Backend } from "./backend.js";
import { ControlServer } from "./control.js";

export interface ServeOptions {
  /** Of the loopback machine. */
  readonly directory: string;
  readonly features: Features;
  /** A line for the operator. */
  readonly log: (line: string) => void;
}

export interface Daemon {
  /** Lets go of everything and leaves xenstore as it is. */
  stop(): Promise<void>;
}

export function controlSocket(directory: string): string {
  return join(directory, "control.sock");
}

/** Joins the loopback machine as domain 0 and serves every vbd of it. `lost` is called if xenstored goes away. */
export async function serve(options: ServeOptions, lost: (error: Error) => void): Promise<Daemon> {
  const { directory, features, log } = options;
  const xenstore = await connectXenstore(xenstoreSocket(directory, 0));
  const domain = await openDomain(directory, 0);
  const reactor = new Reactor(await domain.eventChannels(), await domain.grantTable());
  const backend = new Backend({ xenstore, reactor, features, domid: 0, kind: "vbd", log });
  const control = await ControlServer.listen(controlSocket(directory), ({ command }) => {
    if (command === "list") return { vbds: backend.status(), mappedPages: reactor.mappedPages };
    throw new Error(`there is no command ${JSON.stringify(command)}`);
  });
  xenstore.onClose = lost;
  await backend.start();
  return {
    async stop() {
      xenstore.onClose = null;
      await control.close();
      await backend.stop();
      await reactor.close();
      await domain.close();
      xenstore.close();
    },
  };
}
