/** The machine that a run was on, and the programs that it needs. */
import { readFileSync, statfsSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { versionOf } from "./processes.js";

export interface Environment {
  readonly cpu: string;
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  readonly kernel: string;
  readonly node: string;
  /** Of the file that is measured on. */
  readonly fileSystem: string;
  readonly programs: Readonly<Record<string, string>>;
}

const PACKAGES: Readonly<Record<string, string>> = {
  fio: "fio",
  "qemu-nbd": "qemu-utils",
  nbdkit: "nbdkit",
  "qemu-storage-daemon": "qemu-system-common",
  gcc: "gcc",
};

/** TMPFS_MAGIC and RAMFS_MAGIC: no O_DIRECT, and no disk. */
const MEMORY_FILE_SYSTEMS = [0x01021994, 0x858458f6];

export function isInMemory(directory: string): boolean {
  return MEMORY_FILE_SYSTEMS.includes(statfsSync(directory).type);
}

/** The type of the file system at the longest mount point above `directory`. */
function fileSystemOf(directory: string): string {
  let found = { point: "", type: "unknown" };
  for (const mount of readFileSync("/proc/self/mounts", "utf8").split("\n")) {
    const [, point = "", type = ""] = mount.split(" ");
    const above = point === "/" || directory === point || directory.startsWith(`${point}/`);
    if (point !== "" && above && point.length >= found.point.length) found = { point, type };
  }
  return found.type;
}

/** With what to say of each program that is not installed. */
export function examine(directory: string): { environment: Environment; missing: Map<string, string> } {
  const programs: Record<string, string> = {};
  const missing = new Map<string, string>();
  for (const [program, pack] of Object.entries(PACKAGES)) {
    const version = versionOf(program);
    if (version === null) missing.set(program, `${program} is not installed (Debian: ${pack})`);
    else programs[program] = version;
  }
  const environment = {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memory: totalmem(),
    kernel: release(),
    node: process.version,
    fileSystem: fileSystemOf(directory),
    programs,
  };
  return { environment, missing };
}
