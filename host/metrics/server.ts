/** Where Prometheus asks: GET /metrics, on a loopback address or a Unix socket. */
import { once } from "node:events";
import { createBoundedServer, type HttpAddress, parseHttpAddress } from "../daemon/http.js";
import { listenPrivately } from "../daemon/private-socket.js";
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
  const server = createBoundedServer(
    (request, response) => {
      const plain = { "content-type": "text/plain; charset=utf-8" };
      if (request.url?.split("?")[0] !== "/metrics")
        response.writeHead(404, plain).end("Not Found: the metrics are at /metrics\n");
      else if (request.method !== "GET" && request.method !== "HEAD") {
        response.writeHead(405, { ...plain, allow: "GET, HEAD" }).end("Method Not Allowed\n");
      } else response.writeHead(200, { "content-type": CONTENT_TYPE }).end(text());
    },
    { anyHost: "path" in address },
  );
  if ("path" in address) await listenPrivately(server, address.path);
  else {
    server.listen(address.port, address.host);
    await once(server, "listening");
  }
  return {
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
