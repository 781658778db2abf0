/** Where Prometheus asks: GET /metrics, on a loopback address or a Unix socket. */
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer } from "node:http";
import { createConnection } from "node:net";
import { type HttpAddress, parseHttpAddress } from "../daemon/http.js";
import { CONTENT_TYPE } from "./exposition.js";

/** A Unix socket. */
export interface SocketAddress {
  readonly path: string;
}
export type MetricsAddress = HttpAddress | SocketAddress;

/** "127.0.0.1:9748", "[::1]:9748" or an absolute path; null for anything that others than this machine could reach. */
export function parseMetricsAddress(text: string): MetricsAddress | null {
  return text.startsWith("/") ? { path: text } : parseHttpAddress(text);
}

export interface MetricsServer {
  close(): Promise<void>;
}

/** Answers with `text()` until closed. Rejects when it cannot listen there. */
export async function serveMetrics(address: MetricsAddress, text: () => string): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    const plain = { "content-type": "text/plain; charset=utf-8" };
    if (request.url?.split("?")[0] !== "/metrics") response.writeHead(404, plain).end("it is at /metrics\n");
    else if (request.method !== "GET" && request.method !== "HEAD") {
      response.writeHead(405, { ...plain, allow: "GET, HEAD" }).end("GET is all there is\n");
    } else response.writeHead(200, { "content-type": CONTENT_TYPE }).end(text());
  });
  if ("path" in address) await removeStale(address.path);
  const mask = process.umask(0o177);
  try {
    if ("path" in address) server.listen(address.path);
    else server.listen(address.port, address.host);
  } finally {
    process.umask(mask);
  }
  await once(server, "listening");
  return {
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A socket that nobody answers at is left over; anything else stays. */
async function removeStale(path: string): Promise<void> {
  const socket = createConnection(path);
  const refused = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(false));
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
  socket.destroy();
  if (refused) rmSync(path, { force: true });
}
