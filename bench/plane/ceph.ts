/** Disks in Ceph, on a cluster of one monitor and one OSD on this machine: one image for xbdback, one for fio's own rbd engine. */
import { statSync } from "node:fs";
import { Cluster, noCeph } from "../../test/ceph/cluster.js";
import type { Backing } from "./backing.js";
import { atExit } from "./cleanup.js";

/** What the OSD's file has room for, twice. */
const MOST_BYTES = 256 << 20;
/** The pool that a cluster begins with. */
const POOL = "rbd";

/** The images are as large as the file, if there is room, and written once. Rejects with an Error of one line. */
export async function startCeph(file: string): Promise<Backing> {
  const objection = noCeph();
  if (objection) throw new Error(objection);
  const ends: (() => unknown)[] = [];
  const end = (): void => {
    for (const one of ends.splice(0)) one();
  };
  const ended = atExit(end);
  try {
    const cluster = await Cluster.start({ after: (one) => void ends.push(one as () => unknown) });
    const bytes = Math.min(statSync(file).size, MOST_BYTES);
    for (const name of ["own", "peer"]) {
      await cluster.create(name, bytes);
      const pattern = ["--io-type", "write", "--io-pattern", "seq", "--io-size", "4M"];
      await cluster.scene.run("rbd", "bench", `${POOL}/${name}`, ...pattern, "--io-total", `${bytes}B`);
    }
    return {
      ...{
        target: `rbd:${POOL}/own`,
        peer: { path: file, format: "raw" },
        vhost: null,
        files: [],
        pid: null,
      },
      rbd: { pool: POOL, image: "peer" },
      async stop() {
        ended();
        end();
      },
    };
  } catch (error) {
    ended();
    end();
    throw error;
  }
}
