/**
 * The thread of one device of another package. What the device throws, also outside of every call, ends this thread at
 * most, and one that never comes back keeps nobody else waiting.
 */
import { pathToFileURL } from "node:url";
import { workerData } from "node:worker_threads";
import { BUILD } from "../../reactor/build.js";
import { DEVICE_API, type Device, type DeviceModule } from "./interface.js";
import type { Description, ModuleAnswer, ModuleRequest, ModuleSettings, Opened } from "./messages.js";

const { build, path, how, port } = workerData as ModuleSettings;

async function open(): Promise<Device> {
  if (build !== BUILD) throw new Error("xbdback was replaced by another release since this process began");
  const { default: module } = (await import(pathToFileURL(path).href)) as { default?: DeviceModule };
  if (typeof module?.open !== "function")
    throw new Error("it has no default export with a function open; docs/disks.md describes the interface");
  if (module.api !== DEVICE_API) {
    const version = String(module.api as unknown);
    throw new Error(
      `made for version ${version} of the device interface, and this xbdback has ${DEVICE_API}`,
    );
  }
  const device = await module.open(how);
  if (typeof device?.read !== "function") throw new Error("the opened device has no function read");
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
    if (to.length !== length) throw new Error("the module detached the buffer it was given");
    return to;
  }
  if (operation === "write") await device.write?.(position, bytes as Uint8Array);
  else if (operation === "discard") await device.discard?.(position, length);
  else await device[operation]?.();
  return null;
}

/** One line, whatever was thrown. */
function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n")[0].slice(0, 1000) || "no error message";
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
  port.postMessage({ refusal: reason(error) } satisfies Opened);
}
