// Which tests `npm test` leaves to `npm run test:full`, so that a first look takes three minutes at most on two cores.
// A first look has the core, the vectors, the oracle, the whole path of a ring, restarts, the daemon and its commands in
// it. A new test is in it unless its name is added here: files under test/, or folders. Named ones always run:
// `npm test -- ceph`.
export const FULL_ONLY = [
  // Other people's large programs, started anew for each test.
  "boot/boot",
  "ceph/",
  "cli/page",
  "docs/",
  "e2e/export",
  "e2e/ext4",
  "e2e/fio",
  "e2e/qemu-img",
  "hosts/",
  "package/build",
  "package/completion",
  "package/debian",
  "package/tarball",
  // Fuzzers and instrumented builds.
  "fuzz/",
  "session/players",
  // Every engine, kind of grant and format, where a first look has one.
  "e2e/engines",
  "images/formats",
  "images/helpers",
  "images/known-faults",
  "images/modules",
  "images/nbd",
  "reactor/give-back",
  "reactor/observe",
  "reactor/polling",
  "reactor/threads",
  "reactor/throttle",
  "storage/nbd-faults",
  // Waits and crowds.
  "bench/",
  "cli/faults",
  "cli/hang",
  "cli/hung-neighbours",
  "cli/mute-server",
  "cli/observe",
  "cli/outlive",
  "cli/session",
  "cli/throttle",
  "daemon/image-watch",
  "restart/another-file",
  "restart/kept-descriptors",
  "restart/kept-trouble",
  "restart/held",
  "vbd/faults",
  "vbd/many",
  "vbd/neighbours",
];
