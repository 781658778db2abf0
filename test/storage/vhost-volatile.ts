/** A vhost-user server with a volatile cache: what was not flushed is gone when it is killed. */
import { Request } from "../../host/storage/vhost-user/abi.js";
import type { Asked, FakeServer, Script } from "./vhost-server.js";

export class VolatileServer {
  /** What outlives the server. */
  readonly stable: Buffer;
  kills = 0;
  /** It hangs up on whoever connects. */
  away = false;
  /** Says when it is killed: called before each request is served. */
  dies: (asked: Asked) => "before" | "served" | "answered" | null = () => null;
  readonly script: Script;
  readonly #cache: Buffer;

  constructor(bytes: number, script: Script = {}) {
    this.stable = Buffer.alloc(bytes);
    this.#cache = Buffer.alloc(bytes);
    this.script = {
      hears: (server) => {
        if (this.away) server.close();
        return this.away;
      },
      ...script,
      disk: this.#cache,
      serves: (asked, server) => this.#serve(asked, server),
    };
  }

  kill(server: FakeServer): void {
    this.kills++;
    server.close();
    this.stable.copy(this.#cache);
  }

  #serve(asked: Asked, server: FakeServer): boolean {
    const when = this.dies(asked);
    if (when === "served") this.#writes(asked);
    if (when === "answered" || when === null) {
      if (asked.type === Request.flush) this.#cache.copy(this.stable);
      server.answer(asked);
    }
    if (when !== null) this.kill(server);
    return true;
  }

  /** All of it, or a part that reaches the stable storage by itself. */
  #writes({ type, sector, from }: Asked): void {
    if (type !== Request.out) return;
    Buffer.from(from[0]).copy(this.stable, sector * 512);
  }
}
