/** `xbdback serve`. */
import type { Command } from "commander";
import { Endpoint } from "../daemon/endpoint.js";
import { formatHttpAddress, type HttpAddress } from "../daemon/http.js";
import { KeptDescriptors } from "../daemon/kept-descriptors.js";
import { isJournal, type LogFormat, type LogLevel, makeLog } from "../daemon/log.js";
import { type Daemon, type PlaneOptions, type ServeOptions, serve } from "../daemon/serve.js";
import { ServiceManager, summary } from "../daemon/service-manager.js";
import { statusLines } from "../daemon/status-lines.js";
import { VERSION as version } from "../daemon/version.js";
import { collect, type ReloadStatus } from "../metrics/collect.js";
import { expose } from "../metrics/exposition.js";
import { type MetricsAddress, serveMetrics } from "../metrics/server.js";
import { exitAtOnce } from "../platform/libc.js";
import type { Platform } from "../platform/platform.js";
import { kernelBackendOf } from "../platform/xen/find.js";
import { type Cache, cacheFor } from "../storage/direct.js";
import { openDisk } from "../storage/disk.js";
import { defaultLimits } from "../vbd/limit-defaults.js";
import type { Log } from "../vbd/vbd-log.js";
import { configurable, configure, dump, isLive, written } from "./configuration.js";
import { platformOf } from "./daemon.js";
import { Departure } from "./departure.js";
import { CliError, Exit, exitCodeOf } from "./errors.js";
import { LastGood } from "./last-good.js";
import { handleInstead, untilStopped } from "./lifetime.js";
import { machineStarted } from "./machine-start.js";
import { reload } from "./reload.js";

export interface ServeCommandOptions extends PlaneOptions {
  directory?: string;
  kind: string;
  cache: Cache;
  maxQueues: number;
  maxRingPageOrder: number;
  maxIndirectSegments: number;
  persistent: boolean;
  exitWithParent: boolean;
  drainTimeout: number;
  logFormat: LogFormat;
  logLevel: LogLevel;
  maxVbds: number;
  maxRings: number;
  maxGrants: number;
  maxMemory: number;
  nbdReconnect: number;
  limit?: string;
  guestLimit: readonly string[];
  device: readonly string[];
  http?: HttpAddress;
  metrics?: MetricsAddress;
  config?: string;
  dumpConfig: boolean;
  replace: boolean;
}

/** How often the line of `systemctl status` is looked at. */
const STATUS_INTERVAL_MS = 1000;

/** `command` is the parsed `serve`. */
export async function serveCommand(command: Command): Promise<void> {
  const { config, dumpConfig } = command.opts<ServeCommandOptions>();
  const lastGood = new LastGood(command, config);
  let refused: string | null = null;
  let succeededAt = Date.now() / 1000;
  try {
    configure(command, config);
  } catch (error) {
    // A service's guests wait for their disks; who is at a terminal mends the file.
    if (dumpConfig || process.env["NOTIFY_SOCKET"] === undefined) throw error;
    refused = lastGood.use(error);
  }
  const options = command.opts<ServeCommandOptions>();
  if (dumpConfig) {
    process.stdout.write(dump(command));
    return;
  }
  const { directory, kind, exitWithParent, logFormat, metrics, drainTimeout } = options;
  const live = liveOptions(command);
  const platform = await platformOf(directory);
  if (platform.kind === "xen") refuseBesideKernel(kind);
  else await machineStarted(platform.directory, platform.domid);
  const stopped = untilStopped(exitWithParent);
  const log = makeLog(logFormat, process.stderr, { journal: isJournal(), lowest: () => live.logLevel });
  if (refused !== null) log(`xbdback: ${refused}`, { level: "error" });
  let lose: (error: Error) => void = () => {};
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  const manager = new ServiceManager(log);
  // Who asks at the control socket may do so before all is ready.
  let exporter: Endpoint | undefined;
  let pageProblems: () => string[] = () => [];
  const problems = (): string[] => [
    ...(refused === null ? [] : [`configuration refused: ${refused}`]),
    ...pageProblems(),
    ...(exporter?.problem ? [exporter.problem] : []),
  ];
  const machine = platform.kind === "xen" ? "Xen" : platform.directory;
  const about = (): object => ({ machine, kind, options: optionsOf(command), problems: problems() });
  const descriptors = manager.present ? { descriptors: new KeptDescriptors(manager) } : {};
  const departure = new Departure();
  const handOver = () => departure.ask();
  const daemon = await serve(
    { ...daemonOptions(options, live), ...descriptors, platform, log, about, handOver },
    lose,
  );
  pageProblems = () => daemon.problems();
  const { backend, reactor } = daemon;
  manager.alive = () => reactor.answers();
  const reloads = () => ({ successful: refused === null, succeededAt });
  exporter = metrics && metricsEndpoint(metrics, () => measure(daemon, reloads()), log);
  await exporter?.start();
  handleInstead("SIGHUP", () => {
    manager.reloading();
    const reloaded = reload(command, live, config);
    refused = reloaded.refused;
    for (const line of reloaded.lines) log(line, { level: refused === null ? "info" : "error" });
    if (refused === null) {
      lastGood.keep();
      succeededAt = Date.now() / 1000;
    }
    manager.ready();
    tell();
  });
  process.on("SIGUSR1", () => {
    for (const { text, context } of statusLines(daemon)) log(text, context);
  });
  const tell = (): void => manager.status(summary(kind, backend.status(), problems()));
  const status = setInterval(tell, STATUS_INTERVAL_MS).unref();
  manager.ready();
  tell();
  if (refused === null) lastGood.keep();
  log(startLine(platform, kind, daemon));
  try {
    await Promise.race([stopped, departure.asked, lost]);
  } catch (error) {
    // Without xenstore or a reactor thread there is nobody to take leave of; what is open would keep us alive.
    log(`xbdback: ${(error as Error).message}`, { level: "error" });
    exitAtOnce(exitCodeOf(error));
  }
  clearInterval(status);
  manager.stopping();
  await exporter?.close();
  await departure.drain(daemon, drainTimeout, log);
  process.exit();
}

function metricsEndpoint(address: MetricsAddress, text: () => string, log: Log): Endpoint {
  const where = "path" in address ? address.path : `http://${formatHttpAddress(address)}/metrics`;
  return new Endpoint(`metrics at ${where}`, () => serveMetrics(address, text), log);
}

/** Each key of the configuration that is set, with its value. */
function optionsOf(command: Command): Record<string, unknown> {
  const set = [...configurable(command)].map(([key, option]) => [
    key,
    written(command.getOptionValue(option.attributeName())),
  ]);
  return Object.fromEntries(set.filter(([, value]) => value !== undefined));
}

/** What a log is searched for first. */
function startLine(platform: Platform, kind: string, { reactor }: Daemon): string {
  const machine = platform.kind === "xen" ? `Xen, domain ${platform.domid}` : `machine ${platform.directory}`;
  const engines = [...new Set(reactor.threads.map(({ engine }) => engine))].join(" and ");
  const reactors = reactor.threads.length === 1 ? "1 reactor" : `${reactor.threads.length} reactors`;
  return (
    `xbdback: version ${version}, process ${process.pid}, Node ${process.version}: serving backend/${kind} of ${machine}; ` +
    `${engines || "no engine yet"}, ${reactors}`
  );
}

/** What a reload may change: the options that are marked so. */
type LiveOptions = Pick<
  ServeCommandOptions,
  | "maxQueues"
  | "maxRingPageOrder"
  | "maxIndirectSegments"
  | "persistent"
  | "cache"
  | "nbdReconnect"
  | "limit"
  | "guestLimit"
  | "logLevel"
>;

function liveOptions(command: Command): LiveOptions {
  const names = [...configurable(command).values()].filter(isLive).map((option) => option.attributeName());
  return Object.fromEntries(names.map((name) => [name, command.getOptionValue(name)])) as LiveOptions;
}

function daemonOptions(
  options: ServeCommandOptions,
  live: LiveOptions,
): Omit<ServeOptions, "platform" | "log"> {
  const { kind, reactors, engine, pollUs, maxVbds, maxRings, maxGrants, maxMemory, replace, http } = options;
  const { device: modules } = options;
  return {
    kind,
    features: live,
    limits: (guest, target) => defaultLimits(live, guest, target),
    open(path, how) {
      const patience = { reconnectMs: live.nbdReconnect * 1000 };
      return openDisk(path, {
        ...how,
        cache: cacheFor(live.cache, how.directIoSafe ?? false),
        patience,
        modules,
      });
    },
    plane: { reactors, engine, pollUs },
    caps: { vbds: maxVbds, rings: maxRings, grants: maxGrants, memory: maxMemory },
    replace,
    ...(http && { http }),
  };
}

function measure({ backend, reactor }: Daemon, reload: ReloadStatus): string {
  const { mappedPages, threads: reactors } = reactor;
  return expose(collect({ version, vbds: backend.status(), mappedPages, reactors, reload }));
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
