/** Specifications that libxl takes and xbdback does not serve are refused with the part that is wrong, and the remedy. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { requireServable } from "../../host/toolstack/disk-image.js";
import { parseDisk } from "../../host/toolstack/disk-specification.js";

const REFUSED: readonly (readonly [string, RegExp])[] = [
  ["/d,raw,xvda,colo,colo-host=h,colo-port=1,colo-export=e", /^colo is replication by QEMU: attach .* `xl`/],
  ["drbd:resource,xvda,w", /^script "block-drbd" is not run here: .*`xl block-attach`/],
  ["/d,raw,xvda,script=/opt/block-other", /^script "\/opt\/block-other" is not run here/],
  [",empty,xvda", /^only a CD-ROM drive can be empty: /],
  ["nbd://h/e,qcow2,xvda", /^format qcow2 of nbd:\/\/h\/e: leave the format to the server/],
  ["/d,raw,xvda,specification=virtio", /^specification virtio is not xbdback's: leave it out$/],
  ["/d,raw,xvda,backendtype=standalone", /^backendtype standalone is for virtio: leave it out$/],
];

for (const [text, why] of REFUSED) {
  test(`"${text}" is not served`, () => {
    assert.throws(() => requireServable(parseDisk(text)), { message: why });
  });
}

for (const text of [
  "/d,raw,xvda,no-colo",
  "/d,raw,xvda,script=block-xbdback",
  ",empty,hdc,cdrom",
  "/d,qcow2,xvda",
  "/d,raw,xvda,specification=xen,backendtype=phy",
]) {
  test(`"${text}" is served`, () => requireServable(parseDisk(text)));
}
