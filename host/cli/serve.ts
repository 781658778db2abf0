/** `xbdback serve`. */
import type { HttpAddress } from "../daemon/http.js";
import { type LogFormat, makeLog } from "../daemon/log.js";
import { type PlaneOptions, serve } from "../daemon/serve.js";
import { kernelBackendOf } from "../platform/xen/find.js";
import type { Cache } from "../storage/direct.js";
import { platformOf } from "./daemon.js";
import { CliError, Exit, exitCodeOf } from "./errors.js";
import { untilStopped } from "./lifetime.js";

export interface ServeCommandOptions extends PlaneOptions {
  directory?: string;
  kind: string;
  cache: Cache;
  maxQueues: number;
  maxRingPageOrder: number;
  maxIndirectSegments: number;
  persistent: boolean;
  exitWithParent: boolean;
  logFormat: LogFormat;
  maxRings: number;
  http?: HttpAddress;
}

export async function serveCommand(options: ServeCommandOptions): Promise<void> {
  const {
    directory,
    kind,
    exitWithParent,
    cache,
    reactors,
    engine,
    pollUs,
    logFormat,
    maxRings,
    http,
    ...features
  } = options;
  const platform = await platformOf(directory);
  if (platform.kind === "xen") refuseBesideKernel(kind);
  const stopped = untilStopped(exitWithParent);
  const log = makeLog(logFormat);
  let lose: (error: Error) => void = () => {};
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  const daemon = await serve(
    {
      platform,
      kind,
      features,
      cache,
      plane: { reactors, engine, pollUs },
      log,
      maxRings,
      ...(http && { http }),
    },
    lose,
  );
  if (http)
    log(
      `xbdback: the page is at http://${http.host.includes(":") ? `[${http.host}]` : http.host}:${http.port}/`,
    );
  if (platform.kind === "xen") log(`xbdback: serving backend/${kind} of domain ${platform.domid}`);
  try {
    await Promise.race([stopped, lost]);
  } catch (error) {
    // Without xenstore or a reactor thread there is nobody to take leave of; what is open would keep us alive.
    log(`xbdback: ${(error as Error).message}`, { level: "error" });
    process.exit(exitCodeOf(error));
  }
  await daemon.stop();
  process.exit();
}

/** Two backends for one kind would both answer every guest. */
function refuseBesideKernel(kind: string): void {
  const driver = kernelBackendOf(kind);
  if (driver === null) return;
  throw new CliError(
    `the kernel's xen-blkback serves ${kind} here (${driver}): \`rmmod xen-blkback\` and keep it out with ` +
      "`echo blacklist xen-blkback > /etc/modprobe.d/xbdback.conf`, or serve another kind with --kind",
    Exit.busy,
  );
}
