/** The other process of the loopback tests: node peer.js ROLE DIRECTORY DOMID …, driven over fork's channel. */
import { once } from "node:events";
import { allocateMemory } from "../../host/core/memory.js";
import { addressOf, pollReadable } from "../../host/platform/libc.js";
import { Hypervisor, openDomain } from "../../host/platform/loopback/index.js";
import type { EventChannels } from "../../host/platform/ports.js";

const [role, directory, ...numbers] = process.argv.slice(2);
const args = numbers.map(Number);

function say(message: object): void {
  process.send?.(message);
}

function onEvent(channels: EventChannels, react: () => void): void {
  const ports = new Uint32Array(16);
  pollReadable(channels.fd, () => {
    const count = channels.read(ports);
    for (let i = 0; i < count; i++) channels.unmask(ports[i]);
    if (count > 0) react();
  });
}

/** Maps one granted page and returns its words. */
async function mapPage(domid: number, remote: number, ref: number): Promise<Int32Array> {
  const grants = await (await openDomain(directory, domid)).grantTable();
  const memory = allocateMemory(65536, addressOf);
  const status = new Int16Array(1);
  grants.map(memory, 0, remote, Uint32Array.of(ref), true, status);
  if (status[0] !== 0) throw new Error(`grant ${ref} of domain ${remote}: status ${status[0]}`);
  return memory.i32;
}

const roles: Record<string, () => Promise<void>> = {
  /** DOMID REMOTE PORT: answers every event with one. */
  async echo() {
    const [domid, remote, remotePort] = args;
    const channels = await (await openDomain(directory, domid)).eventChannels();
    const port = await channels.bindInterdomain(remote, remotePort);
    onEvent(channels, () => channels.notify(port));
    say({ port });
  },

  /** DOMID REMOTE PORT REF: adds 1 to word 0 of the page and notifies, until killed or until word 1 is reached. */
  async storm() {
    const [domid, remote, remotePort, ref] = args;
    const page = await mapPage(domid, remote, ref);
    const channels = await (await openDomain(directory, domid)).eventChannels();
    const port = await channels.bindInterdomain(remote, remotePort);
    say({ port });
    while (Atomics.load(page, 0) < Atomics.load(page, 1)) {
      Atomics.add(page, 0, 1);
      channels.notify(port);
    }
    say({ done: true });
    await once(process, "message");
  },

  /** DOMID REMOTE PORT REF: at every event copies word 0 of the page to word 2. */
  async watch() {
    const [domid, remote, remotePort, ref] = args;
    const page = await mapPage(domid, remote, ref);
    const channels = await (await openDomain(directory, domid)).eventChannels();
    const port = await channels.bindInterdomain(remote, remotePort);
    onEvent(channels, () => Atomics.store(page, 2, Atomics.load(page, 0)));
    say({ port });
  },

  /** DOMID REMOTE REF: maps the page, adds 1 to word 0 as often as word 1 says, and stays. */
  async count() {
    const [domid, remote, ref] = args;
    const page = await mapPage(domid, remote, ref);
    for (let i = Atomics.load(page, 1); i > 0; i--) Atomics.add(page, 0, 1);
    say({ done: true });
    await once(process, "message");
  },

  /** A hypervisor with domain 5. */
  async hypervisor() {
    const hypervisor = await Hypervisor.start(directory);
    await hypervisor.createDomain(5, 1 << 20);
    say({ ready: true });
  },

  /** DOMID REMOTE REF: pins and unpins by copying, for ever. */
  async copy() {
    const [domid, remote, ref] = args;
    const grants = await (await openDomain(directory, domid)).grantTable();
    const memory = allocateMemory(65536, addressOf);
    const page = memory.base + 4096;
    const segment = [ref, 0 | (remote << 16), page % 2 ** 32, Math.floor(page / 2 ** 32), 64 | (1 << 16), 0];
    for (let i = 0; i < 100; i++) memory.u32.set(segment, i * 6);
    say({ ready: true });
    for (;;) grants.copy(memory, 0, 100);
  },
};

await roles[role]();
