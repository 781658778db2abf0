/** A thread for calls that may wait for storage: see threads.ts. */
import { constants } from "node:os";
import { parentPort } from "node:worker_threads";
import { type Order, type Outcome, TABLE } from "./table.js";

const port = parentPort as NonNullable<typeof parentPort>;

function carryOut({ name, args }: Order): Outcome {
  try {
    return { value: (TABLE[name] as (...args: unknown[]) => unknown)(...args) };
  } catch (error) {
    const { syscall = name, errno = constants.errno.EIO, path = "" } = error as NodeJS.ErrnoException;
    return { syscall, errno: Math.abs(errno), what: path };
  }
}

port.on("message", (order: Order) => port.postMessage(carryOut(order)));
