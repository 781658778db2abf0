/**
 * A web server's file: nbdkit reads it, and is an NBD server of one disk, in front of which there is a qemu-storage-daemon as
 * for any other. It asks the web server once for each request, and what it fails says only that this has not answered.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import type { BlockDevice } from "../device.js";
import { checkKeyFile } from "../key-file.js";
import { connectTo } from "../nbd/dial.js";
import type { Export } from "../nbd/export.js";
import { askExport } from "../nbd/negotiate.js";
import { DeviceError } from "../open.js";
import { DEFAULT_PATIENCE } from "../patience.js";
import type { HelperCommand } from "./command.js";
import { type NbdOptions, type NbdServer, openServed } from "./nbd.js";
import { Helper } from "./process.js";

interface File {
  readonly url: string;
  /** Of the web server's, with a password in `keyFile`. */
  readonly user: string | null;
  readonly keyFile: string | null;
}

function nbdkit({ url, user, keyFile }: File, seconds: number, socket: string): HelperCommand {
  return {
    program: "nbdkit",
    package: "nbdkit",
    reach: {
      ...{ files: [], directory: dirname(socket), remote: true },
      configuration: keyFile === null ? [] : [keyFile],
    },
    args: [
      ...["--foreground", "--exit-with-parent", "--unix", socket, "--readonly", "curl"],
      ...[`url=${url}`, "protocols=http,https", `timeout=${seconds}`],
      ...(user === null ? [] : [`user=${user}`]),
      ...(keyFile === null ? [] : [`password=+${keyFile}`]),
    ],
  };
}

/** Opens a web server's file. Rejects with a {@link DeviceError}; nothing runs then. */
export async function openWeb(name: string, url: string, options: NbdOptions): Promise<BlockDevice> {
  const { readOnly, patience, keyFile, warn = console.warn } = options;
  if (!readOnly)
    throw new DeviceError(
      constants.errno.EROFS,
      name,
      "a web server's file is read-only; attach it read-only",
    );
  const file = fileAt(name, url, keyFile ?? null);
  if (keyFile !== undefined) await checkKeyFile(keyFile);
  const seconds = Math.ceil((patience?.reconnectMs ?? DEFAULT_PATIENCE.reconnectMs) / 1000);
  const command = (socket: string): HelperCommand => nbdkit(file, seconds, socket);
  return openServed(name, new WebServer(name, command, (line) => warn(`${name}: ${line}`)), options);
}

/** Throws a {@link DeviceError} where its user, or password, is not as it should be. */
function fileAt(name: string, url: string, keyFile: string | null): File {
  const [, scheme, user, password, place] = /^(https?:\/\/)(?:([^@/?#:]*)(:[^/?#]*)?@)?(.*)$/s.exec(
    url,
  ) as RegExpExecArray;
  const refuse = (why: string): DeviceError =>
    new DeviceError(constants.errno.EINVAL, name.replace(`${password}@`, ":***@"), why);
  const right = "keyfile:FILE:https://USER@HOST/PATH";
  if (password !== undefined) throw refuse(`has a password, which all users would see: write ${right}`);
  // Behind a slash, which a password has to have encoded.
  if (user === undefined && /^[^@]*:[^@]*@/.test(place))
    throw new DeviceError(constants.errno.EINVAL, `${scheme}***`, `has a password: write ${right}`);
  if (keyFile !== null && !user) throw refuse(`names no user for the password: write ${right}`);
  try {
    return { url: `${scheme}${place}`, user: user ? decodeURIComponent(user) : null, keyFile };
  } catch {
    throw refuse("has a user that is badly encoded: % must be followed by two hexadecimal digits");
  }
}

class WebServer implements NbdServer {
  readonly exportName = "";
  readonly failureMeans = "the web server has not given what was asked of it";
  readonly #disk: string;
  readonly #command: (socket: string) => HelperCommand;
  readonly #log: (line: string) => void;
  /** What nbdkit has said, without its numbers. As long as the web server is away, each says the same. */
  readonly #said = new Set<string>();
  #helper: Helper | null = null;

  constructor(disk: string, command: (socket: string) => HelperCommand, log: (line: string) => void) {
    this.#disk = disk;
    this.#command = command;
    this.#log = (line) => {
      const kind = line.replace(/[0-9]+/g, "");
      if (!this.#said.has(kind)) log(line);
      this.#said.add(kind);
    };
  }

  get name(): string {
    return this.#helper === null ? "a web server" : `${this.#helper.name}, process ${this.#helper.pid}`;
  }

  /** By another nbdkit each time: the one before may wait for the web server. */
  async reach(): Promise<{ exported: Export; fd: number }> {
    await this.end();
    const helper = Helper.start(this.#disk, this.#command, this.#log);
    this.#helper = helper;
    let refused = false;
    try {
      const reached = await helper.reach(this.#disk, async (socket, milliseconds) => {
        const address = { socket, host: "", port: 0, exportName: "" };
        const fd = await connectTo(address, milliseconds);
        // It listens: what is wrong from here on is wrong with the web server.
        const exported = await askExport(address, milliseconds).catch((error: Error) => error);
        return { fd, exported };
      });
      const { exported, fd } = reached;
      if (!(exported instanceof Error)) {
        this.#said.clear();
        return { exported, fd };
      }
      closeSync(fd);
      refused = true;
      throw exported;
    } catch (error) {
      await this.end();
      throw refused ? helper.failure(this.#disk) : error;
    }
  }

  async end(): Promise<void> {
    await this.#helper?.stop();
    this.#helper = null;
  }
}
