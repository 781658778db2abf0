/** What one domain may have. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CappedRingHost } from "../../host/reactor/capped.js";
import type { AttachedRing, AttachOptions, RingHost } from "../../host/reactor/ring-host.js";

const options = (domid: number): AttachOptions => ({ config: { domid } }) as AttachOptions;

test("a domain gets so many rings and no more; those that are let go count no longer", async () => {
  let fails = false;
  const plain = {
    attach: async () => {
      if (fails) throw new Error("no memory");
      return { detach: async () => {} } as AttachedRing;
    },
  } as unknown as RingHost;
  const capped = new CappedRingHost(plain, 2);
  const first = await capped.attach(options(1));
  await capped.attach(options(1));
  await assert.rejects(
    capped.attach(options(1)),
    /^Error: domain 1 has 2 rings, as many as it may: .*--max-rings$/,
  );
  await capped.attach(options(2));
  await first.detach();
  fails = true;
  for (let i = 0; i < 3; i++) await assert.rejects(capped.attach(options(1)), /no memory/);
  fails = false;
  await capped.attach(options(1));
  await assert.rejects(capped.attach(options(1)), /as many as it may/);
});
