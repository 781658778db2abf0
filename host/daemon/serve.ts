/** The daemon: everything that `xbdback serve` is, from start to stop. */
import { existsSync, mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { openDomain, openXenstore, type Platform } from "../platform/platform.js";
import type { Domain } from "../platform/ports.js";
import { CappedRingHost, type Caps } from "../reactor/capped.js";
import { type PoolOptions, ReactorPool } from "../reactor/pool.js";
import type { RingHost } from "../reactor/ring-host.js";
import type { BlockDevice } from "../storage/device.js";
import { openDisk } from "../storage/disk.js";
import { assumedProtocolOn } from "../vbd/frontend.js";
import type { VbdHost } from "../vbd/host.js";
import type { VbdId } from "../vbd/name.js";
import { describeStatus } from "../vbd/status.js";
import type { Open } from "../vbd/store-opener.js";
import type { TellEvent } from "../vbd/vbd-log.js";
import { Backend } from "./backend.js";
import { commands } from "./commands.js";
import { Commits } from "./commits.js";
import { ControlServer } from "./control.js";
import { Endpoint } from "./endpoint.js";
import { Events } from "./events.js";
import { HelperPlaces } from "./helper-places.js";
import { Hotplug } from "./hotplug.js";
import { formatHttpAddress, type HttpAddress, servePage } from "./http.js";
import { describeDifference, ImageRecords } from "./image-records.js";
import { ImageWatch } from "./image-watch.js";
import {
  helpersDirectory,
  keptDirectory,
  openJournals,
  recordsDirectory,
  replacedDirectory,
} from "./journals.js";
import type { KeptDescriptors } from "./kept-descriptors.js";
import { KeptPlaces } from "./kept-places.js";
import { OtherBackends } from "./other-backends.js";
import { type HandOver, type Predecessor, takePlace, type Unreleased } from "./replace.js";
import { ReplacedImages } from "./replaced-images.js";
import { Snapshots } from "./snapshots.js";
import { Stores } from "./stores.js";

export interface ServeOptions extends Pick<VbdHost, "features" | "limits" | "log" | "open"> {
  readonly platform: Platform;
  /** Directory below `backend/` in xenstore. */
  readonly kind: string;
  /** Default: {@link DEFAULT_PLANE}. */
  readonly plane?: PlaneOptions;
  /** What one domain may have; DEFAULT_CAPS where it is left out. */
  readonly caps?: Partial<Caps>;
  /** Where the read-only page is served; nowhere when it is left out. */
  readonly http?: HttpAddress;
  /** What `xbdback status` is told beside version, process and reactors. */
  readonly about?: () => object;
  /** What a successor asks for: stops the daemon, and resolves when all that can be released is. */
  readonly handOver?: () => Promise<HandOver>;
  /** Where the disks' locks outlive this process; left out where nowhere. */
  readonly descriptors?: KeptDescriptors;
  /** Takes the place of the daemon that serves this kind, if there is one. Default: rejects then. */
  readonly replace?: boolean;
}

export type PlaneOptions = Pick<PoolOptions, "reactors" | "engine" | "pollUs">;
export const DEFAULT_PLANE: PlaneOptions = { reactors: availableParallelism(), engine: "auto", pollUs: 0 };

export interface Daemon {
  readonly backend: Pick<Backend, "status" | "vbd">;
  readonly reactor: Pick<RingHost, "mappedPages" | "threads" | "answers">;
  /** What does not work although the daemon serves, a line each. */
  problems(): string[];
  /** While the daemon stops: the disks that are not released yet. */
  unreleased(): Unreleased[];
  /** Lets go of everything and leaves xenstore and the journals as they are: guests wait for the next daemon. */
  stop(): Promise<void>;
}

/** Guests would wait for a disk that is not there, so the old daemon had better go on. */
async function refuseOtherDisks(records: ImageRecords): Promise<void> {
  const [first] = await records.differences();
  if (!first) return;
  const [name, difference] = first;
  throw new Error(
    `${name}: ${difference.path}: ${describeDifference(difference)}; the running daemon has not been stopped`,
  );
}

/** The page, with the connections of browsers that keep theirs open. */
async function openPage(address: HttpAddress, backend: Backend): Promise<{ close(): void }> {
  const server = await servePage(address, backend);
  return {
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Where the daemon for one kind of vbd is talked to. */
export function controlSocket(platform: Platform, kind: string): string {
  if (platform.kind === "xen") return `/run/xbdback/${kind}.sock`;
  return join(platform.directory, kind === "vbd" ? "control.sock" : `control-${kind}.sock`);
}

/**
 * Joins the machine and serves every vbd of one kind. `lost` is called if xenstored goes away. Rejects, with nothing
 * left open, when there is no such machine or it has a daemon.
 */
export async function serve(options: ServeOptions, lost: (error: Error) => void): Promise<Daemon> {
  const { platform, kind, plane = DEFAULT_PLANE, caps } = options;
  const { http, replace = false, descriptors, ...host } = options;
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
    // Side by side: guests may be waiting.
    const starting = ReactorPool.start({ ...plane, platform, log: options.log, onFailure: lost });
    const connecting = openXenstore(platform);
    const [pooled, connected] = [starting, connecting].map((opening) => opening.catch(() => null));
    // xenstore's connection keeps the process alive until all else is let go.
    undo.push(
      async () => (await connected)?.close(),
      async () => (await pooled)?.close(),
    );
    const xenstore = await connecting;
    const pool = await starting;
    const journals = openJournals(platform, kind);
    const prepared = pool.prepare(journals.count);
    const reactor = new CappedRingHost(pool, caps, options.log);
    const assumedProtocol = assumedProtocolOn(platform.kind, process.arch);
    const { domid } = platform;
    const records = new ImageRecords(recordsDirectory(platform), kind);
    const others = new OtherBackends(xenstore, domid, kind);
    const kept = new KeptPlaces(keptDirectory(platform), kind);
    const helpers = new HelperPlaces(helpersDirectory(platform), kind, host.log);
    const replaced = new ReplacedImages(replacedDirectory(platform));
    undo.push(() => helpers.close());
    const opener = host.open ?? openDisk;
    const domain = await openDomain(platform);
    undo.push(() => domain.close());
    const isSuspended: Domain["isSuspended"] = (other) => domain.isSuspended(other);
    if ((await isSuspended(domid)) === null)
      host.log(
        "xbdback: the hypervisor does not tell this process of suspended guests: disks of guests that migrate are released late (docs/migration.md)",
      );
    const stores = new Stores(xenstore, opener, {
      ...{ records, others, kept, helpers, descriptors, isSuspended, replaced },
      maxVbds: caps?.vbds,
    });
    const images = new ImageWatch(() => stores.images(), host.log);
    undo.push(() => images.close());
    const open: Open = (path, options, vbd) => stores.open(path, options, vbd);
    const events = new Events();
    const tell: TellEvent = (vbd, event, message) => events.tell(vbd, event, message);
    const hotplug = new Hotplug({ xenstore, stores, domid, kind, log: host.log, tell });
    const changed = (id: VbdId): void => hotplug.look(id);
    const hold: NonNullable<VbdHost["hold"]> = (path, options, vbd) => stores.hold(path, options, vbd);
    const prepare: NonNullable<VbdHost["prepare"]> = (path, options, vbd) =>
      stores.prepare(path, options, vbd);
    const snapshots = new Snapshots(stores, replaced);
    const snapshot: NonNullable<VbdHost["snapshot"]> = (path, options, vbd, overlay) =>
      snapshots.begin(path, options, vbd, overlay);
    const commits = new Commits({ stores, replaced, helpers });
    const commit: NonNullable<VbdHost["commit"]> = (path, options, vbd) => commits.begin(path, options, vbd);
    const release = (vbd: VbdId): Promise<void> => stores.forget(vbd);
    const held = (vbd: VbdId): BlockDevice | null => stores.deviceOf(vbd);
    const outage: NonNullable<VbdHost["outage"]> = (vbd) => stores.outageOf(vbd);
    const image: NonNullable<VbdHost["image"]> = (vbd) => {
      const open = stores.imageOf(vbd);
      return open && { imageState: images.stateOf(open), imageKept: open.kept };
    };
    const leave = (vbd: VbdId): Promise<void> => stores.release(vbd);
    const told = (id: VbdId, why: string): boolean => hotplug.told(id, why);
    const rest = {
      tell,
      told,
      open,
      hold,
      held,
      image,
      outage,
      prepare,
      snapshot,
      commit,
      release,
      leave,
      isSuspended,
      records: {
        sweep(exists: (name: string) => boolean): void {
          records.sweep(exists);
          kept.sweep(exists);
          helpers.sweep((name) => exists(name) || stores.unreleased.includes(name));
          descriptors?.sweep(exists);
        },
      },
      changed,
      xenstore,
      reactor,
      domid,
      kind,
      journals,
    };
    const backend = new Backend({ ...host, ...rest, assumedProtocol });
    const socket = controlSocket(platform, kind);
    if (platform.kind === "xen") mkdirSync(dirname(socket), { recursive: true, mode: 0o755 });
    let predecessor: Predecessor | null = null;
    if (replace) {
      await prepared;
      await refuseOtherDisks(records);
      predecessor = await takePlace(socket, host.log);
    }
    let page: Endpoint | null = null;
    const before = (): Predecessor | null =>
      predecessor && existsSync(`/proc/${predecessor.pid}`) ? predecessor : null;
    const about = (): object => ({ ...options.about?.(), predecessor: before() });
    const control = await ControlServer.listen(
      socket,
      commands(backend, reactor, events, replaced, about, options.handOver),
    );
    undo.push(
      // Side by side: where one disk hangs, the others are released all the same.
      () => Promise.all([hotplug.stop(), backend.stop(), stores.close()]),
      () => stores.keepNothing(),
      () => control.close(),
    );
    if (http) {
      page = new Endpoint(
        `the page at http://${formatHttpAddress(http)}/`,
        () => openPage(http, backend),
        options.log,
      );
      undo.push(() => page?.close());
      await page.start();
    }
    xenstore.onClose = lost;
    undo.push(() => {
      xenstore.onClose = null;
    });
    await backend.start();
    const unreleased = (): Unreleased[] => {
      const names = new Set([...backend.stopping, ...stores.unreleased]);
      return backend.status().flatMap((status) =>
        names.has(status.name)
          ? [
              {
                name: status.name,
                why: describeStatus(status),
                inflight: status.inflight,
                hangs: status.storage.state === "waiting",
              },
            ]
          : [],
      );
    };
    const problems = (): string[] => {
      const old = before();
      const names = old?.unreleased.map(({ name }) => name).join(", ");
      return [
        ...(page?.problem ? [page.problem] : []),
        ...(old ? [`process ${old.pid}, the previous daemon, has not ended: it still has ${names}`] : []),
      ];
    };
    return { stop, backend, reactor, problems, unreleased };
  } catch (error) {
    await stop().catch(() => {});
    throw error;
  }
}
