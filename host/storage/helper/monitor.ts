/** QEMU's monitor (QMP) of a helper: only to tell it to end. */
import { connect, type Socket } from "node:net";

/** What is to be said first, and the end. Its answers are of no use. */
const QUIT = '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n';

/** Where it listens, beside the socket for the client. */
export function monitorOf(socket: string): string {
  return `${socket}.monitor`;
}

export class Monitor {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Connects to it; where it does not listen, what is said is lost. */
  static async open(path: string): Promise<Monitor> {
    const socket = connect(path);
    await new Promise<void>((resolve) => {
      socket.once("connect", resolve);
      socket.on("error", () => resolve());
    });
    socket.resume();
    return new Monitor(socket);
  }

  quit(): void {
    this.#socket.write(QUIT);
  }

  close(): void {
    this.#socket.destroy();
  }
}
