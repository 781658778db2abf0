/**
 * Opening what another program has to serve. The program is started for each connection, and ends with it: when it dies, a
 * new one takes its place, and the requests are sent again; when the daemon is killed, it writes back what it keeps and
 * ends. QEMU's lock of an image lasts until then, and the next one waits for it: that is the fence.
 */
import { execFile } from "node:child_process";
import { close } from "node:fs";
import { constants } from "node:os";
import { promisify } from "node:util";
import type { Cache } from "../direct.js";
import type { NbdDevice } from "../nbd/device.js";
import type { Line } from "../nbd/negotiate.js";
import { type NbdOptions, openExport } from "../nbd/open.js";
import { DeviceError, openStore } from "../open.js";
import { IMAGE_FORMATS } from "../source.js";
import { commandFor, findProgram, type HelpedSource } from "./command.js";
import { Helper } from "./process.js";

const closeFile = promisify(close);
const run = promisify(execFile);
const INFO_MS = 5000;
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
  const chain = source.kind === "image" ? await openChain(source, readOnly, shared) : null;
  let helper: Helper | null = null;
  const log = (line: string): void => warn(`${name}: ${line}`);
  const dial = async (): Promise<Line> => {
    // Its connection is gone. While it lives, it may still write.
    await helper?.end();
    const next = Helper.start(name, (socket) => commandFor(source, { readOnly, shared, cache, socket }), log);
    helper = next;
    try {
      return await next.connect(name);
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
      server: () => `${helper?.name}, process ${helper?.pid}${chain?.description ?? ""}`,
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

type ImageSource = Extract<HelpedSource, { kind: "image" }>;

interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  /** Of its base, as its header says; absent where it does not, and QEMU guesses. */
  readonly "backing-filename-format"?: string;
}

interface Chain {
  /** For people; "" where it cannot be told. */
  readonly description: string;
  close(): Promise<void>;
}

/**
 * Looks at an image and those that it is based on. Rejects with a DeviceError that says what is wrong with a file, or who has
 * it. The image itself is for the helper to lock. Its bases we lock, until they are closed: to QEMU, others may write them.
 */
async function openChain({ path, format }: ImageSource, readOnly: boolean, shared: boolean): Promise<Chain> {
  const { fd } = await openStore(path, { readOnly, shared, warn: () => {} });
  await closeFile(fd);
  const images = await chainOf(path, IMAGE_FORMATS[format]);
  refuseGuesses(images);
  const description = images.map(({ filename, format }) => `${format} ${filename}`).join(", over ");
  const bases: number[] = [];
  const close = async (): Promise<void> => {
    for (const base of bases.splice(0)) await closeFile(base);
  };
  try {
    for (const { filename } of images.slice(1)) {
      if (!filename.startsWith("/")) continue;
      bases.push((await openStore(filename, { readOnly: true, shared, warn: () => {} })).fd);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { description: description && `: ${description}`, close };
}

/** A base may have been a guest's raw disk, who could have made it anything. What was guessed to be raw harms nobody. */
function refuseGuesses(images: readonly ImageInfo[]): void {
  for (const [i, { filename, "backing-filename-format": said }] of images.entries()) {
    const base = images[i + 1];
    if (!base || said !== undefined || base.format === "raw") continue;
    throw new DeviceError(
      constants.errno.EINVAL,
      filename,
      `does not name the format of its base ${base.filename}, which is not guessed: ` +
        "`qemu-img rebase -u -b BASE -F FORMAT IMAGE` records it",
    );
  }
}

/**
 * The image first; none where it cannot be told. QEMU must not guess the image's format: in a fixed VHD the first sector is
 * the guest's, who could make it the header of an image with bases of his choice.
 */
async function chainOf(path: string, driver: string): Promise<ImageInfo[]> {
  const qemuImg = findProgram("qemu-img");
  if (qemuImg === null) return [];
  try {
    const args = ["info", "-f", driver, "--force-share", "--backing-chain", "--output=json", "--", path];
    const { stdout } = await run(qemuImg, args, { timeout: INFO_MS });
    return JSON.parse(stdout) as ImageInfo[];
  } catch {
    // The helper says better what is wrong with it.
    return [];
  }
}
