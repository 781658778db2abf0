# Sourced by lab: makes kernels, initramfs and root image of the machine out of Debian packages, boots it and freezes
# it. Everything goes into $CACHE.

PACKAGES="xen-hypervisor-4.17-amd64 linux-image-amd64
  xen-utils-4.17 xenstore-utils qemu-system-xen grub-xen-host
  bash coreutils util-linux mawk sed grep findutils procps e2fsprogs kmod tar gzip
  busybox-static libc-bin fio strace socat"

# Modules that the dom0's initramfs needs to find its root disk; those that dom0 has besides; those of the domU's
# initramfs. Each with everything it depends on.
BOOT_MODULES="virtio_pci virtio_blk ext4"
DOM0_MODULES="xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs xen-blkback virtio_console 9p 9pnet_virtio loop brd"
DOMU_MODULES="xen-blkfront ext4"

# Makes what is not there yet.
build() {
  if [ "$(cat "$CACHE/stamp" 2>/dev/null)" != "$(stamp)" ]; then make_images; fi
  if [ ! -f "$FROZEN/state" ]; then freeze; fi
  [ -f "$FROZEN/state" ] || die "the machine did not get ready"
}

make_images() {
  [ "$(id -u)" = 0 ] || die "build must run as root"
  local t0=$SECONDS
  install_host_tools
  mkdir -p "$CACHE"/{debs/partial,boot}
  cd "$CACHE"
  rm -rf stamp frozen-*
  download
  unpack
  kernels
  KVER=$(cat boot/kver)
  chroot tree /sbin/depmod "$KVER"
  initramfs
  tools_image
  root_image
  stamp > stamp
  say "images made in $((SECONDS - t0)) s: $(du -sh boot | cut -f1) in $CACHE/boot"
}

# stamp - changes with everything that the images depend on.
stamp() { cat "$HERE"/{lab,build.sh} "$HERE"/files/* "$(readlink -f "$(command -v node)")" | sha256sum | cut -d' ' -f1; }

install_host_tools() {
  local need=
  command -v qemu-system-x86_64 >/dev/null || need+=" qemu-system-x86"
  command -v cpio >/dev/null || need+=" cpio"
  command -v xz >/dev/null || need+=" xz-utils"
  command -v mke2fs >/dev/null || need+=" e2fsprogs"
  [ -n "$need" ] || return 0
  say "installing$need"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $need >/dev/null
}

# The packages and everything they depend on, as if nothing were installed here: an empty dpkg status makes apt resolve
# (and download) all of it.
download() {
  say "downloading packages"
  : > empty.status
  apt-get -q -y --no-install-recommends --download-only \
    -o Dir::State::status="$CACHE/empty.status" -o Dir::Cache::archives="$CACHE/debs" \
    -o APT::Sandbox::User=root -o Debug::NoLocking=1 install $PACKAGES >download.log 2>&1 ||
    { tail -5 download.log >&2; die "download failed"; }
  sed -n 's/^Inst \([^ ]*\).*/\1/p' download.log > packages.list
}

# Makes one merged /usr tree of the packages. No maintainer script runs.
unpack() {
  local deb
  say "unpacking $(ls debs/*.deb | wc -l) packages"
  rm -rf tree
  mkdir -p tree/usr/{bin,sbin,lib,lib64,libexec}
  for deb in bin sbin lib lib64; do ln -s "usr/$deb" "tree/$deb"; done
  for deb in debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C tree
  done
}

# Xen and Linux, both uncompressed: emulated unpacking costs seconds a boot.
kernels() {
  local vmlinuz setup off len
  vmlinuz=$(echo tree/boot/vmlinuz-*)
  echo "${vmlinuz#*vmlinuz-}" > boot/kver
  zcat tree/boot/xen-4.17-amd64.gz > boot/xen
  setup=$(od -An -tu1 -j $((0x1f1)) -N1 "$vmlinuz")
  off=$(od -An -tu4 -j $((0x248)) -N4 "$vmlinuz"); len=$(od -An -tu4 -j $((0x24c)) -N4 "$vmlinuz")
  xz -dc --single-stream > boot/vmlinux \
    < <(tail -c +$(( (setup + 1) * 512 + off + 1 )) "$vmlinuz" | head -c "$len")
}

# module_closure NAME... - the .ko paths (relative to tree/) of the modules and all they depend on, dependencies first.
module_closure() {
  local m
  for m in "$@"; do
    chroot tree /sbin/modprobe --set-version "$KVER" --show-depends --ignore-install "$m" |
      awk '$1 == "insmod" { print $2 }' || die "no module $m"
  done | sed 's,^/,,' | awk '!seen[$0]++'
}

# busybox_tree DIR MODULE... - a minimal root in DIR: busybox under all its names, and modules in /mod by number.
busybox_tree() {
  local dir=$1 name i=0; shift
  rm -rf "$dir"
  mkdir -p "$dir"/{bin,dev,proc,sys,mnt,tmp,root,etc,mod}
  cp tree/bin/busybox "$dir/bin/busybox"
  for name in $(tree/bin/busybox --list); do
    [ "$name" = busybox ] || ln -s busybox "$dir/bin/$name"
  done
  while read -r name; do
    i=$((i + 1)); cp "tree/$name" "$dir/mod/$(printf %02d $i)-${name##*/}"
  done < <(module_closure "$@")
}

pack() ( cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 )

initramfs() {
  local name
  for name in dom0-initramfs domu; do
    if [ $name = domu ]; then busybox_tree $name $DOMU_MODULES; else busybox_tree $name $BOOT_MODULES; fi
    install -m 755 "$HERE/files/$name-init" $name/init
    pack $name > boot/$name.cpio
    rm -rf $name
  done
}

# A disk of programs for domUs, each started through a script of its name with the libraries beside it.
tools_image() {
  local prog
  rm -rf tools; mkdir -p tools/bin
  for prog in usr/bin/fio usr/sbin/mke2fs usr/sbin/e2fsck; do
    copy_with_libs "$prog" tools
    cat > "tools/bin/${prog##*/}" <<WRAPPER
#!/bin/sh
exec /tools/lib64/ld-linux-x86-64.so.2 --library-path /tools/lib/x86_64-linux-gnu:/tools/usr/lib/x86_64-linux-gnu:/tools/usr/lib/x86_64-linux-gnu/ceph /tools/$prog "\$@"
WRAPPER
  done
  chmod 755 tools/bin/*
  image tools boot/tools.img ext2
  rm -rf tools
}

# copy_with_libs PROGRAM DIR - a program of the tree, and the libraries that it needs.
copy_with_libs() {
  local lib
  mkdir -p "$2/${1%/*}"; cp "tree/$1" "$2/$1"
  chroot tree /lib64/ld-linux-x86-64.so.2 --list "/$1" |
    awk '$2 == "=>" { print $3 } $1 ~ /ld-linux/ { print $1 }' | while read -r lib; do
    mkdir -p "$2${lib%/*}"; cp -L "tree$lib" "$2$lib"
  done
}

# image DIR FILE TYPE [OPTIONS] - a filesystem with DIR's content and some room.
image() {
  local kb; kb=$(du -sk --apparent-size "$1" | cut -f1)
  rm -f "$2"; truncate -s $((kb / 1024 * 5 / 4 + 64))M "$2"
  mke2fs -q -t "$3" ${4:-} -m 0 -d "$1" "$2"
}

# The dom0's root: the tree without what no test needs, this host's node, our own files.
root_image() {
  local module
  say "making the root image"
  rm -rf root; cp -a tree root
  ( cd root
    rm -rf boot usr/share/{doc,man,locale,iso-codes,info,lintian,bash-completion,zoneinfo,i18n,icu,gtk-doc,bug} \
      usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/gstreamer* usr/share/qemu/openbios* \
      "lib/modules/$KVER/kernel" )
  module_closure $BOOT_MODULES $DOM0_MODULES $DOMU_MODULES | while read -r module; do
    mkdir -p "root/${module%/*}"; cp "tree/$module" "root/$module"
  done
  chroot root /sbin/depmod "$KVER"
  host_program "$(readlink -f "$(command -v node)")" usr/bin/node
  system_files
  mkdir -p root/xenlab
  cp boot/vmlinux boot/domu.cpio boot/tools.img root/xenlab/
  install -m 755 "$HERE/files/dom0-init" root/sbin/xenlab-init
  install -m 755 "$HERE/files/domu" root/usr/bin/domu
  chroot root /sbin/ldconfig
  image root boot/root.img ext4 "-O ^has_journal,^metadata_csum,^64bit"
  rm -rf root
}

# host_program PROGRAM AT - a program of this host, and those of its libraries that the tree lacks: both are of the
# same Debian release.
host_program() {
  local lib
  cp "$1" "root/$2"
  ldd "$1" | awk '$2 == "=>" { print $3 }' | while read -r lib; do
    [ -e "root$lib" ] || [ -e "root/usr$lib" ] || { mkdir -p "root${lib%/*}"; cp -L "$lib" "root$lib"; }
  done
}

# What maintainer scripts and an installer would have made.
system_files() (
  cd root
  ln -sf bash usr/bin/sh
  [ -e usr/bin/awk ] || ln -s mawk usr/bin/awk
  # The tools of the versioned package, on the usual path.
  for name in usr/lib/xen-4.17/bin/*; do ln -sf "/$name" "usr/sbin/${name##*/}"; done
  for name in $(bin/busybox --list); do
    [ -e "usr/bin/$name" ] || [ -e "usr/sbin/$name" ] || ln -s busybox "usr/bin/$name"
  done
  mkdir -p dev proc sys run tmp root mnt share var/{lib/xen,log/xen/console} etc/modprobe.d
  rm -rf var/run; ln -s /run var/run
  echo root:x:0:0:root:/root:/bin/bash > etc/passwd; echo root:x:0: > etc/group
  echo 127.0.0.1 localhost > etc/hosts; echo dom0 > etc/hostname; ln -sf /proc/mounts etc/mtab
)
