/** TLS to an NBD server, by the files that QEMU's and libnbd's programs have in a directory. */
import { constants as flags } from "node:fs";
import { isIP, type Socket } from "node:net";
import { constants } from "node:os";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import { Place } from "../calls/place.js";
import { checkKeyFile } from "../key-file.js";
import { DeviceError, errnoOf, refusal } from "../open.js";
import type { NbdTls } from "./uri.js";

const LARGEST = 1 << 20;

export interface Credentials {
  readonly ca: Buffer;
  /** Of the client, where it has one. */
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

/** What of a directory is read: the authority's certificate, the client's, and its key. */
export function credentialFiles({ certificates }: NbdTls): string[] {
  return ["ca-cert.pem", "client-cert.pem", "client-key.pem"].map((name) => join(certificates, name));
}

/** Rejects with a {@link DeviceError} where a file is missing, or the key is no secret. */
export async function readCredentials(tls: NbdTls): Promise<Credentials> {
  const [authority, certificate, key] = credentialFiles(tls);
  const ca = await contentOf(authority);
  const cert = await contentOf(certificate).catch((error: DeviceError) => {
    if (error.errno === constants.errno.ENOENT) return null;
    throw error;
  });
  if (cert === null) return { ca };
  await checkKeyFile(key);
  return { ca, cert, key: await contentOf(key) };
}

async function contentOf(path: string): Promise<Buffer> {
  const place = Place.of(path);
  try {
    const { size } = await place.stat();
    const bytes = new Uint8Array(Math.min(Number(size), LARGEST));
    const fd = await place.open(flags.O_RDONLY);
    try {
      return Buffer.from(bytes.buffer, 0, await place.read(fd, bytes, 0));
    } finally {
      await place.close(fd);
    }
  } catch (error) {
    throw error instanceof DeviceError ? error : await refusal(path, errnoOf(error));
  }
}

/** Takes the socket over. `failed` is called with what goes wrong, also later. */
export function startTls(
  socket: Socket,
  { hostname }: NbdTls,
  credentials: Credentials,
  failed: (error: Error) => void,
): Promise<TLSSocket> {
  // A server's name may be sent to it, and an address may not.
  const name = isIP(hostname) === 0 ? { servername: hostname } : {};
  return new Promise((resolve) => {
    try {
      const secure = connect({ socket, host: hostname, ...name, ...credentials });
      secure.on("error", ({ message }) => failed(new Error(`TLS with the server fails: ${message}`)));
      secure.once("secureConnect", () => resolve(secure));
    } catch (error) {
      failed(new Error(`a certificate or key cannot be used: ${(error as Error).message}`));
    }
  });
}
