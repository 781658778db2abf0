/** A helper's monitor that says what a test tells it to. */
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { directory } from "./helpers.js";

const GREETING = '{"QMP": {"version": {}, "capabilities": []}}\r\n';

export interface Command {
  readonly execute: string;
  readonly id: number;
}

/** Resolves with its path. `answer` is what it says to a command; without one, only qmp_capabilities is answered. */
export async function serveMonitor(
  t: TestContext,
  answer: (command: Command, socket: Socket) => string | null,
): Promise<string> {
  const path = join(directory(t), "monitor");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.write(GREETING);
    let text = "";
    socket.on("data", (chunk) => {
      const lines = (text + chunk).split("\n");
      text = lines.pop() as string;
      for (const line of lines) {
        const command = JSON.parse(line) as Command;
        const known = command.execute === "qmp_capabilities" ? okay(command) : null;
        const said = answer(command, socket) ?? known;
        if (said !== null) socket.write(said);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => server.close());
  return path;
}

export function okay({ id }: Command, value: unknown = {}): string {
  return `${JSON.stringify({ return: value, id })}\r\n`;
}
