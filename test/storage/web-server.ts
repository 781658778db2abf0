/** A web server of one file, which does what a test wants. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

/** Answers a request itself if it returns true. */
export type Evil = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface WebServer {
  readonly url: string;
  /** Stops listening and cuts all connections. */
  stop(): Promise<void>;
  /** Listens again, at the same port. */
  start(): Promise<void>;
}

export async function webServer(t: TestContext, file: Buffer, evil: Evil = () => false): Promise<WebServer> {
  const server = createServer((request, response) => {
    if (evil(request, response)) return;
    const range = /^bytes=([0-9]+)-([0-9]+)$/.exec(request.headers.range ?? "");
    const start = Number(range?.[1] ?? 0);
    // A range may end behind the end.
    const end = Math.min(Number(range?.[2] ?? file.length) + 1, file.length);
    response.writeHead(range ? 206 : 200, { "accept-ranges": "bytes", "content-length": end - start });
    response.end(request.method === "HEAD" ? undefined : file.subarray(start, end));
  });
  const listen = (port: number): Promise<void> =>
    new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  await listen(0);
  t.after(stop);
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/disk.img`, stop, start: () => listen(port) };
}
