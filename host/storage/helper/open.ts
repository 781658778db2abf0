/**
 * Opening what another program has to serve. The program is started for each connection, and ends with it: when it dies, a
 * new one takes its place, and the requests are sent again; when the daemon is killed, it writes back what it keeps and
 * ends. QEMU's lock of an image lasts until then, and the next one waits for it: that is the fence.
 */
import { constants } from "node:os";
import { Place } from "../calls/place.js";
import type { Cache } from "../direct.js";
import type { NbdDevice } from "../nbd/device.js";
import type { Line } from "../nbd/negotiate.js";
import { type NbdOptions, openExport } from "../nbd/open.js";
import { DeviceError, openStore } from "../open.js";
import { IMAGE_FORMATS } from "../source.js";
import { type Chain, openChain } from "./chain.js";
import { commandFor, type HelpedSource } from "./command.js";
import { unconfined } from "./confined.js";
import { Helper } from "./process.js";
import { SameFiles } from "./same-files.js";

/** The program's life is the connection's, and its storage may be slow. */
const NEVER = Number.POSITIVE_INFINITY;

export interface HelpedOptions extends NbdOptions {
  readonly cache?: Cache;
}

/** Starts the helper for a source and opens its disk. Rejects with a {@link DeviceError}; nothing runs then. */
export async function openHelped(
  name: string,
  source: HelpedSource,
  options: HelpedOptions,
): Promise<NbdDevice> {
  const { readOnly, shared = false, cache = "writeback", warn = console.warn } = options;
  if (source.kind === "http" && !readOnly) {
    throw new DeviceError(
      constants.errno.EROFS,
      name,
      "a web server's file is read-only; attach it read-only",
    );
  }
  const chain = source.kind === "image" ? await openImage(source, readOnly, shared) : null;
  const bases = chain?.bases ?? [];
  const log = (line: string): void => warn(`${name}: ${line}`);
  const paths = source.kind === "image" ? [source.path, ...bases.map(({ path }) => path)] : [];
  const sameFiles = await SameFiles.of(name, paths, log).catch(async (error) => {
    await chain?.close();
    throw error;
  });
  const confinement = checkConfinement(log) ? "" : ", not confined to its files";
  let helper: Helper | null = null;
  const dial = async (): Promise<Line> => {
    // Its connection is gone. While it lives, it may still write.
    await helper?.end();
    await sameFiles.check();
    const how = { readOnly, shared, cache, bases, block: chain?.block ?? false };
    const next = Helper.start(name, (socket) => commandFor(source, { ...how, socket }), log);
    helper = next;
    try {
      const line = await next.connect(name);
      // Another file may have come there while it started.
      await sameFiles.check();
      return line;
    } catch (error) {
      await next.stop();
      throw error;
    }
  };
  return openExport(
    name,
    dial,
    { ...options, patience: { ...options.patience, silenceMs: NEVER } },
    {
      fenced: source.kind === "http" || (source.kind === "image" && !shared),
      bases: bases.map(({ path }) => path),
      server: () => `${helper?.name}, process ${helper?.pid}${confinement}${chain?.description ?? ""}`,
      release: async () => {
        await helper?.end();
        await chain?.close();
      },
    },
  ).catch(async (error) => {
    await helper?.stop();
    await chain?.close();
    throw error;
  });
}

let said = false;

/** Whether helpers are confined to their files here. If not, that is said once. */
function checkConfinement(log: (line: string) => void): boolean {
  const why = unconfined();
  if (why !== null && !said) log(`helpers are not confined to their files: ${why}`);
  said ||= why !== null;
  return why === null;
}

type ImageSource = Extract<HelpedSource, { kind: "image" }>;

async function openImage({ path, format }: ImageSource, readOnly: boolean, shared: boolean): Promise<Chain> {
  const driver = IMAGE_FORMATS[format];
  const { fd, kind } = await openStore(path, { readOnly, shared, format: driver, warn: () => {} });
  await Place.of(path).close(fd);
  return openChain({ driver, path, block: kind === "block" }, shared);
}
