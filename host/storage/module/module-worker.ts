/**
 * The thread of one device of another package. What the device throws, also outside of every call, ends this thread at
 * most, and one that never comes back keeps nobody else waiting.
 */
import { pathToFileURL } from "node:url";
import { workerData } from "node:worker_threads";
import { BUILD } from "../../platform/build.js";
import { DEVICE_API, type Device, type DeviceModule } from "./interface.js";
import type { Description, ModuleAnswer, ModuleRequest, ModuleSettings, Opened } from "./messages.js";

const { build, path, how, port } = workerData as ModuleSettings;

/** Of the module, found by us: its message says all. */
class Fault extends Error {}

async function open(): Promise<Device> {
  if (build !== BUILD) throw new Fault("xbdback was replaced by another release since this process began");
  const { default: module } = (await import(pathToFileURL(path).href)) as { default?: DeviceModule };
  if (typeof module?.open !== "function")
    throw new Fault("it has no default export with a function open; docs/disks.md describes the interface");
  if (module.api !== DEVICE_API) {
    const version = String(module.api as unknown);
    throw new Fault(
      `made for version ${version} of the device interface, and this xbdback has ${DEVICE_API}`,
    );
  }
  const device = await module.open(how);
  if (typeof device?.read !== "function") throw new Fault("the opened device has no function read");
  return device;
}

function describe(device: Device): Description {
  const { size, sectorSize, survives, timeoutSeconds } = device;
  return {
    size,
    ...(sectorSize !== undefined && { sectorSize }),
    ...(survives !== undefined && { survives }),
    ...(timeoutSeconds !== undefined && { timeoutSeconds }),
    writes: device.write !== undefined,
    flushes: device.flush !== undefined,
    discards: device.discard !== undefined,
  };
}

/** Returns what was read. */
async function carryOut(
  device: Device,
  { operation, position, length, bytes }: ModuleRequest,
): Promise<Uint8Array | null> {
  if (operation === "read") {
    const to = new Uint8Array(length);
    await device.read(position, to);
    if (to.length !== length) throw new Fault("the module detached the buffer it was given");
    return to;
  }
  if (operation === "write") await device.write?.(position, bytes as Uint8Array);
  else if (operation === "discard") await device.discard?.(position, length);
  else await device[operation]?.();
  return null;
}

/** Stacks that were said: the same fault may come with every request. */
const said = new Set<string>();
const MAX_SAID = 20;

/** One line, whatever was thrown, with the place; the whole stack goes to the log, once, as a line with \\n in it. */
function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const line = text.split("\n")[0].slice(0, 1000) || "no error message";
  const stack = error instanceof Error && !(error instanceof Fault) ? (error.stack ?? "") : "";
  // Node tells the place of a SyntaxError only to who lets it end the process.
  if (error instanceof SyntaxError) return `${line} (\`node --check ${path}\` shows where)`;
  const place = /(?:file:\/\/|\(|at )(\/[^\s():]+(?::\d+)+)/.exec(stack)?.[1];
  if (stack !== "" && !said.has(stack) && said.size < MAX_SAID) {
    said.add(stack);
    console.error(stack.replaceAll("\n", "\\n"));
  }
  return place === undefined ? line : `${line} (${place})`;
}

async function answer(device: Device, request: ModuleRequest): Promise<void> {
  const { id } = request;
  let reply: ModuleAnswer;
  try {
    reply = { id, error: null, bytes: await carryOut(device, request) };
  } catch (error) {
    reply = { id, error: reason(error), bytes: null };
  }
  port.postMessage(reply, reply.bytes ? [reply.bytes.buffer as ArrayBuffer] : []);
}

try {
  const device = await open();
  port.on("message", (request: ModuleRequest) => void answer(device, request));
  port.postMessage({ device: describe(device) } satisfies Opened);
} catch (error) {
  // The thread lives until it is ended: its end could be heard of before its answer.
  port.on("message", () => {});
  port.postMessage({ refusal: reason(error) } satisfies Opened);
}
