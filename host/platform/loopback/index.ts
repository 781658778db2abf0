/** Xen's grant tables and event channels between processes of one machine, without Xen. */

export { startMachine } from "./directory.js";
export { type LoopbackDomain, openDomain } from "./domain.js";
export { Hypervisor } from "./hypervisor.js";
export { runtimeParent } from "./layout.js";
