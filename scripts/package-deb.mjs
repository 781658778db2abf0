// Makes build/xbdback_VERSION_ARCHITECTURE.deb, for this machine's architecture: `npm run package:deb`, or for a named one,
// on any machine: `npm run package:deb -- arm64`.
//
// The contents are what `npm pack` packs, in /usr/lib/xbdback, and what a Debian system wants of it in its own places.
// Node is a dependency, not part of the package: Debian 13 has one that is new enough, Debian 12 gets it from NodeSource.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { copyright, describe, filesIn, install, installedSize, pack, run, SOURCE, write } from "./deb.mjs";
import { ARCHITECTURES, partOf } from "./native-parts.mjs";

const { name, version, description, engines } = JSON.parse(
  readFileSync(join(SOURCE, "package.json"), "utf8"),
);
const nodeVersion = engines.node.replace(/[^0-9.]/g, "");

/** What `npm pack` packs, unpacked. */
function unpackPackage(scratch, to) {
  run("npm", "pack", "--silent", "--pack-destination", scratch);
  const [tarball] = readdirSync(scratch).filter((file) => file.endsWith(".tgz"));
  mkdirSync(to, { recursive: true });
  run(
    "tar",
    "-xzf",
    join(scratch, tarball),
    "-C",
    to,
    "--strip-components=1",
    "--no-same-owner",
    "--mode=u=rwX,go=rX",
  );
}

/** Leaves of koffi's native parts the one for this architecture, and of that the one for glibc, which is Debian's. */
function removeOtherParts(to) {
  for (const [name, debian] of Object.entries(ARCHITECTURES)) {
    const part = join(to, partOf(name));
    rmSync(debian === architecture ? join(part, `musl_${name}`) : part, { recursive: true });
  }
}

/** Folders of the package that are documentation, besides its Markdown files. */
const DOCUMENTS = ["docs", "examples", "test"];

/** The files in the places where Debian has them. */
function layOut(root) {
  const packaging = join(SOURCE, "packaging");
  const command = join(root, "usr/lib/xbdback/bin/xbdback.mjs");
  chmodSync(command, 0o755);
  mkdirSync(join(root, "usr/bin"), { recursive: true });
  symlinkSync("../lib/xbdback/bin/xbdback.mjs", join(root, "usr/bin/xbdback"));
  install(join(packaging, "xbdback.service"), join(root, "usr/lib/systemd/system/xbdback.service"));
  for (const file of ["grafana-dashboard.json", "logrotate", "prometheus-alerts.yaml"]) {
    install(join(packaging, file), join(root, "usr/share/xbdback", file));
  }
  install(join(packaging, "xbdback.toml"), join(root, "etc/xbdback/xbdback.toml"));
  install(join(SOURCE, "xen/block-xbdback"), join(root, "etc/xen/scripts/block-xbdback"), 0o755);
  const manual = join(root, "usr/lib/xbdback/build/man");
  for (const page of readdirSync(manual)) {
    const section = page.slice(page.lastIndexOf(".") + 1);
    const text = readFileSync(join(manual, page));
    write(join(root, `usr/share/man/man${section}/${page}.gz`), gzipSync(text, { level: 9 }));
  }
  const completion = (shell) => run(process.execPath, command, "completion", shell);
  write(join(root, "usr/share/bash-completion/completions/xbdback"), completion("bash"));
  write(join(root, "usr/share/zsh/vendor-completions/_xbdback"), completion("zsh"));
  const documents = join(root, "usr/share/doc/xbdback");
  write(join(documents, "copyright"), copyright());
  // As they lie in the package, so that the links from one to the other lead there.
  const packed = readdirSync(join(root, "usr/lib/xbdback"));
  for (const name of packed.filter((name) => name.endsWith(".md") || DOCUMENTS.includes(name))) {
    symlinkSync(`../../../lib/xbdback/${name}`, join(documents, name));
  }
}

function control(root) {
  return `Package: ${name}
Version: ${version}
Architecture: ${architecture}
Maintainer: The xbdback authors <xbdback@localhost>
Installed-Size: ${installedSize(root)}
Depends: nodejs (>= ${nodeVersion}), libc6, passwd
Suggests: xen-utils-common, bash-completion, qemu-utils, qemu-system-common, nbdkit
Section: admin
Priority: optional
Description: ${description}
 Serves image files and block devices as paravirtual disks to the guests of a
 Xen host, in place of the kernel's xen-blkback or beside it. It comes with the
 hotplug script for xl and runs under systemd as a user of its own.
`;
}

/** What of /etc is the administrator's, and the scripts. */
function addScripts(root) {
  const metadata = join(root, "DEBIAN");
  const files = filesIn(root).filter((file) => file.startsWith("etc/"));
  write(join(metadata, "conffiles"), files.map((file) => `/${file}\n`).join(""));
  for (const script of ["postinst", "prerm", "postrm"]) {
    install(join(SOURCE, "packaging/debian", script), join(metadata, script), 0o755);
  }
}

const architecture = process.argv[2] ?? ARCHITECTURES[process.arch];
if (!Object.values(ARCHITECTURES).includes(architecture)) {
  const known = Object.values(ARCHITECTURES).join(" or ");
  process.stderr.write(`there is no package for ${architecture ?? process.arch}: name ${known}\n`);
  process.exit(2);
}
const scratch = mkdtempSync(join(tmpdir(), "xbdback-deb-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
process.umask(0o022);
const root = join(scratch, "root");
unpackPackage(scratch, join(root, "usr/lib/xbdback"));
if (!existsSync(join(root, "usr/lib/xbdback/build/blkif.wasm")))
  throw new Error("the package has no core: build first");
// What the command writes of itself, it writes here, with this machine's part.
layOut(root);
removeOtherParts(join(root, "usr/lib/xbdback"));
describe(root, control(root));
addScripts(root);
pack(root, `${name}_${version}_${architecture}.deb`);
