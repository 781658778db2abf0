/**
 * Opening what another program has to serve. When it dies, a new one takes its place, and the requests are sent again. When
 * the daemon is killed, the next one finds it again, if it is qemu-storage-daemon in a place that lasts. Otherwise it writes
 * back what it keeps and ends: QEMU's lock of an image lasts until then, and the next one waits for it.
 */
import { constants } from "node:os";
import { Place } from "../calls/place.js";
import type { BlockDevice } from "../device.js";
import type { Cache } from "../direct.js";
import { fileIdentity } from "../identity.js";
import { checkKeyFile } from "../key-file.js";
import { DeviceError, type OpenOptions, openStore } from "../open.js";
import type { Patience } from "../patience.js";
import { IMAGE_FORMATS } from "../source.js";
import { openDialed } from "../vhost-user/open.js";
import type { Session } from "../vhost-user/session.js";
import { type Chain, described, openChain } from "./chain.js";
import type { HelpedSource, Layer } from "./command.js";
import { unconfined } from "./confined.js";
import { DiskHelper } from "./disk-helper.js";
import { hasExclusiveLock } from "./exclusive-lock.js";
import { SameFiles } from "./same-files.js";
import { type Aio, storageDaemon } from "./storage-daemon.js";

/** The program's life is the connection's, and its storage may be slow. */
const NEVER = Number.POSITIVE_INFINITY;

export interface HelpedOptions extends OpenOptions {
  readonly cache?: Cache;
  readonly patience?: Partial<Patience>;
  /** Holds the passphrase of an encrypted image, or the password at a web server. */
  readonly keyFile?: string;
}

interface ServeOptions extends HelpedOptions {
  /** Bytes. Default: 512. */
  readonly sectorSize?: number;
}

/** Starts the helper for a source and opens its disk. Rejects with a {@link DeviceError}; nothing runs then. */
export async function openHelped(
  name: string,
  source: HelpedSource,
  options: HelpedOptions,
): Promise<BlockDevice> {
  const { keyFile, helperPlace } = options;
  // The helper of a daemon before has read it.
  if (keyFile !== undefined && !helperPlace?.taken) await checkKeyFile(keyFile);
  return serve(name, source, source.kind === "image" ? await openImage(source, options) : null, options);
}

/** Starts the helper for a source whose chain, if it is an image, is open: that is closed with the disk, or on failure. */
export async function serve(
  name: string,
  source: HelpedSource,
  chain: Chain | null,
  options: ServeOptions,
): Promise<BlockDevice> {
  const { shared = false, warn = console.warn } = options;
  const bases = chain?.layers.slice(1).map(({ path }) => path) ?? [];
  const log = (line: string): void => warn(`${name}: ${line}`);
  const sameFiles = await SameFiles.of(
    name,
    source.kind === "image" ? [source.path, ...bases] : [],
    log,
  ).catch(async (error) => {
    await chain?.close();
    throw error;
  });
  const confinement = checkConfinement(log) ? "" : ", not confined to its files";
  const helper = new DiskHelper(name, sameFiles, log);
  const fence = { stands: source.kind === "image" && !shared };
  const behind: Behind = {
    get fenced() {
      return helper.found || fence.stands;
    },
    bases,
    server: () => `${helper.name}${confinement}${chain ? `: ${described(chain)}` : ""}`,
    release: async () => {
      await helper.end();
      await chain?.close();
    },
  };
  return connect(name, { source, chain, helper, fence }, behind, options).catch(async (error) => {
    await helper.giveUp();
    await chain?.close();
    throw explained(error as Error, options.keyFile);
  });
}

/** QEMU says of a passphrase only that it is wrong. */
function explained(error: Error, keyFile: string | undefined): Error {
  if (keyFile === undefined || !(error instanceof DeviceError) || !/Invalid password/.test(error.message))
    return error;
  const why = `its passphrase is not what ${keyFile} holds: a newline at the end of the file is a part of it`;
  return new DeviceError(constants.errno.EACCES, error.path, why);
}

type Behind = Parameters<typeof openDialed>[3];

interface Helped {
  readonly source: HelpedSource;
  readonly chain: Chain | null;
  readonly helper: DiskHelper;
  /** Whether the next helper's writes come after all of a dead one's, whoever started that. */
  readonly fence: { stands: boolean };
}

async function connect(
  name: string,
  { source, chain, helper, fence }: Helped,
  behind: Behind,
  options: ServeOptions,
): Promise<BlockDevice> {
  const patience = { ...options.patience, silenceMs: NEVER };
  const { readOnly, shared = false, unsettled = false, cache = "writeback", sectorSize } = options;
  const { writesBase = false } = options;
  const [image, ...bases] = chain?.layers ?? [];
  const how = {
    readOnly,
    shared,
    cache,
    bases,
    writesBase,
    block: image?.block ?? false,
    ...(sectorSize && { sectorSize }),
    ...(options.keyFile !== undefined && { keyFile: options.keyFile }),
  };
  const command = (socket: string, aio: Aio) => storageDaemon(source, { ...how, socket }, aio);
  const dial = async (): Promise<Session> => {
    const session = await helper.startStorageDaemon(command, options.helperPlace ?? null);
    if (source.kind !== "rbd" || readOnly || !unsettled || helper.found) return session;
    try {
      fence.stands ||= await hasExclusiveLock(name, source);
    } catch (error) {
      session.lose("it is given up");
      throw error;
    }
    return session;
  };
  return openDialed(name, dial, { ...options, patience }, behind);
}

let said = false;

/** Whether helpers are confined to their files here. If not, that is said once. */
export function checkConfinement(log: (line: string) => void): boolean {
  const why = unconfined();
  if (why !== null && !said) log(`helpers are not confined to their files: ${why}`);
  said ||= why !== null;
  return why === null;
}

type ImageSource = Extract<HelpedSource, { kind: "image" }>;

async function openImage({ path, format }: ImageSource, options: HelpedOptions): Promise<Chain> {
  const { shared = false, keyFile } = options;
  const image = await findImage(path, IMAGE_FORMATS[format], { ...options, shared });
  return openChain(image, { shared, encrypted: keyFile !== undefined });
}

/** An image that nobody else uses in a way that excludes this use. Rejects with a {@link DeviceError}. */
export async function findImage(
  path: string,
  driver: string,
  { readOnly, shared = false, helperPlace }: Pick<HelpedOptions, "readOnly" | "shared" | "helperPlace">,
): Promise<Layer> {
  // The helper of a daemon before has it open, and locked.
  if (helperPlace?.taken) return { driver, path, block: (await fileIdentity(path)).startsWith("block ") };
  const { fd, kind } = await openStore(path, { readOnly, shared, format: driver, warn: () => {} });
  await Place.of(path).close(fd);
  return { driver, path, block: kind === "block" };
}
