/**
 * Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. Emulated as they are, they take minutes;
 * XBDBACK_TEST=full has them all.
 */
import { buildLab } from "./lab.js";
import { scenario } from "./scenario.js";

buildLab();
scenario("gntdev maps, unmaps and copies as the port says", "grants.sh", 600);
scenario("a Linux guest keeps files on a disk", "guest.sh", 600);
scenario("the README's installation", "install.sh", 900);
if (process.env["XBDBACK_TEST"] === "full") {
  scenario("xl attaches, refuses, shares, creates and destroys", "xl.sh", 1200);
  scenario("plain phy:", "phy.sh", 900);
  scenario("guests boot from a disk", "boot.sh", 1200);
  scenario("a Linux guest and its disks", "linux.sh", 1200);
  scenario("guest, daemon and device die in every order", "death.sh", 1200);
  scenario("fio over the ways in which a frontend connects", "matrix.sh", 1800, { FULL: "1" });
}
