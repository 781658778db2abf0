/** A backend with disks of a test's own, as a process: its argument is the machine's directory. */
import { KeptDescriptors } from "../../host/daemon/kept-descriptors.js";
import { serve } from "../../host/daemon/serve.js";
import { ServiceManager } from "../../host/daemon/service-manager.js";
import { DEFAULT_FEATURES } from "../../host/vbd/backend-keys.js";
import type { Open } from "../../host/vbd/store-opener.js";

export async function serveDisks(open: Open): Promise<void> {
  const manager = new ServiceManager((line) => void process.stderr.write(`${line}\n`));
  await serve(
    {
      platform: { kind: "loopback", directory: process.argv[2], domid: 0 },
      kind: "vbd",
      features: DEFAULT_FEATURES,
      plane: { reactors: 1, engine: "libuv", pollUs: 0 },
      log: (line) => void process.stderr.write(`${line}\n`),
      open,
      ...(manager.present && { descriptors: new KeptDescriptors(manager) }),
    },
    (error) => {
      throw error;
    },
  );
}
