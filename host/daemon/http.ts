/** The read-only page: files that ship with the package, and what the daemon knows of its vbds as JSON. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { describeStatus } from "../vbd/status.js";
import type { Backend } from "./backend.js";

export interface HttpAddress {
  readonly host: string;
  readonly port: number;
}

const FILES: Readonly<Record<string, readonly [string, string]>> = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/page.css": ["page.css", "text/css; charset=utf-8"],
  "/page.js": ["page.js", "text/javascript; charset=utf-8"],
};

/** Nothing from elsewhere, nothing framed, nothing guessed. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
};

const LOOPBACK = /^(127(?:\.[0-9]{1,3}){3}|\[::1\]|localhost)(?::([0-9]{1,5}))?$/;

/** "127.0.0.1:8080" or "[::1]:8080"; null for anything that others than this machine's users could reach. */
export function parseHttpAddress(text: string): HttpAddress | null {
  const match = LOOPBACK.exec(text);
  const port = Number(match?.[2] ?? Number.NaN);
  return match && port <= 65535 ? { host: match[1].replace(/[[\]]/g, ""), port } : null;
}

/** The other way round. */
export function formatHttpAddress({ host, port }: HttpAddress): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** How many may be connected at once, and for how long one may keep a connection without asking for something. */
const MAX_CONNECTIONS = 32;
const REQUEST_MS = 5000;
const IDLE_MS = 10_000;

/**
 * A server for few readers: whoever opens connections and sends nothing, or slowly, is disconnected. Whoever asks for
 * another name than a loopback one is refused: a name that somebody's page has pointed at this machine must not let that
 * page read.
 */
export function createBoundedServer(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  { anyHost = false } = {},
): Server {
  const options = {
    headersTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    connectionsCheckingInterval: 1000,
  };
  const server = createServer(options, (request, response) => {
    if (anyHost || LOOPBACK.test(request.headers.host ?? "")) answer(request, response);
    else refuse(response, 403, "Forbidden: use a loopback address");
  });
  server.maxConnections = MAX_CONNECTIONS;
  return server.setTimeout(IDLE_MS);
}

/** Serves the page until the server that this resolves with is closed. Rejects when it cannot listen there. */
export async function servePage(
  { host, port }: HttpAddress,
  backend: Pick<Backend, "status" | "vbd">,
): Promise<Server> {
  const server = createBoundedServer((request, response) => answer(backend, request, response));
  server.listen(port, host);
  await once(server, "listening");
  return server;
}

function answer(
  backend: Pick<Backend, "status" | "vbd">,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const [path] = (request.url ?? "/").split("?");
  if (request.method !== "GET" && request.method !== "HEAD") refuse(response, 405, "it is read-only");
  else if (path === "/vbds.json") send(response, "application/json", JSON.stringify({ vbds: vbds(backend) }));
  else if (Object.hasOwn(FILES, path)) {
    const [name, type] = FILES[path];
    send(response, type, readFileSync(new URL(`../../web/${name}`, import.meta.url)));
  } else refuse(response, 404, "Not Found");
}

function vbds(backend: Pick<Backend, "status" | "vbd">): object[] {
  return backend.status().map((status) => ({
    ...status,
    description: describeStatus(status),
    rings: backend.vbd(status.name).rings(),
  }));
}

function send(response: ServerResponse, type: string, body: string | Uint8Array): void {
  response.writeHead(200, { ...HEADERS, "content-type": type }).end(body);
}

function refuse(response: ServerResponse, status: number, why: string): void {
  response.writeHead(status, { ...HEADERS, "content-type": "text/plain; charset=utf-8" }).end(`${why}\n`);
}
