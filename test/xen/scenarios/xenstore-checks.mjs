// For scripts that try the xenstore port in a domain of the lab.
import { setTimeout as sleep } from "node:timers/promises";

const { connectXen } = await import("/usr/lib/node_modules/xbdback/build/host/platform/xen/xenstore.js");

export { connectXen };

/** A directory that this domain may write; removed at the end. */
export const NODE = `/local/domain/${process.env.DOMID ?? 0}/data/xenbus`;

export async function check(name, body) {
  try {
    await body();
    console.log(`CHECK ok ${name}`);
  } catch (error) {
    console.log(`${error.stack}\nCHECK FAILED ${name}`);
  }
}

/** Waits until the condition holds, for a minute as the last resort. */
export async function until(condition) {
  for (let i = 0; !condition(); i++) {
    if (i === 6000) throw new Error(`not in a minute: ${condition}`);
    await sleep(10);
  }
}
