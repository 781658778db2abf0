// Makes build/libblkif-core-dev_VERSION_all.deb, the core in C for programs of others: `npm run package:deb-core`.
//
// It has the source, not a library: a program compiles it with the sizes of tables that it wants. pkg-config says where.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyright, describe, install, installedSize, pack, SOURCE, write } from "./deb.mjs";

const { version } = JSON.parse(readFileSync(join(SOURCE, "package.json"), "utf8"));

const PKG_CONFIG = `prefix=/usr
source=\${pc_sysrootdir}\${prefix}/share/blkif-core/blkif-core.c

Name: blkif-core
Description: The back half of Xen's paravirtual block driver, to be compiled into a program: \${source}
Version: ${version}
Cflags: -I\${prefix}/include
`;

const control = (root) => `Package: libblkif-core-dev
Version: ${version}
Architecture: all
Maintainer: The xbdback authors <xbdback@localhost>
Installed-Size: ${installedSize(root)}
Suggests: libxen-dev, pkg-config
Section: libdevel
Priority: optional
Description: protocol core of a Xen block backend, as plain C11
 A header and a source file that decode, check and order the requests of a
 guest's block ring, and write the responses. The program around them maps the
 ring, carries out grant operations and does the I/O. They need no library and
 no run-time system; the program supplies the memory, and chooses its size.
`;

const scratch = mkdtempSync(join(tmpdir(), "xbdback-deb-core-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
process.umask(0o022);
const root = join(scratch, "root");
const documents = join(root, "usr/share/doc/libblkif-core-dev");
install(join(SOURCE, "build/c/blkif-core.h"), join(root, "usr/include/blkif-core.h"));
install(join(SOURCE, "build/c/blkif-core.c"), join(root, "usr/share/blkif-core/blkif-core.c"));
write(join(root, "usr/share/pkgconfig/blkif-core.pc"), PKG_CONFIG);
write(join(documents, "copyright"), copyright());
for (const name of ["core.md", "restart.md"]) install(join(SOURCE, "docs", name), join(documents, name));
for (const name of ["c/host.c", "c/guest.h", "c-backend/backend.c"])
  install(join(SOURCE, "examples", name), join(documents, "examples", name));
describe(root, control(root));
pack(root, `libblkif-core-dev_${version}_all.deb`);
