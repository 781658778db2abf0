/** Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. */
import { buildLab } from "./lab.js";
import { scenario } from "./scenario.js";

buildLab();
scenario("gntdev maps, unmaps and copies as the port says", "grants.sh", 600);
scenario("xl attaches, refuses, shares, creates and destroys", "xl.sh", 900);
scenario("guests boot from a disk", "boot.sh", 900);
scenario("a Linux guest and its disks", "linux.sh", 900);
scenario("the README's installation", "install.sh", 600);
scenario("guest, daemon and device die in every order", "death.sh", 900);
scenario("fio over the ways in which a frontend connects", "matrix.sh", 1200);
