/** A xenstore that tells what the backend asks of it, and refuses where a test wants it to. */
import { dirname } from "node:path";
import type { Xenstore, XenstoreTransaction } from "../../host/platform/ports.js";

/** Before a request is passed on: may wait, or throw in its place. "transaction" has no path. */
export type Hook = (verb: string, path: string) => void | Promise<void>;

/** A state that the backend wrote, with all that it had written in its directory by then. */
export interface Written {
  readonly directory: string;
  readonly state: number;
  readonly keys: Readonly<Record<string, string>>;
}

export interface Spy {
  readonly xenstore: Xenstore;
  readonly states: Written[];
  /** Requests so far. */
  requests: number;
  hook: Hook | null;
  /** Null answers as to a domain that may not ask. */
  introduced: null | undefined;
  /** Watches that were registered: what each calls. */
  readonly watches: Map<string, (path: string) => void>;
  /** Looks at a backend's directory that have begun, by directory. */
  readonly looks: Map<string, number>;
  /** Paths in such directories that the backend has heard of, and how many looks at it had begun by then. */
  readonly heard: Map<string, number>;
}

export function spyOn(real: Xenstore): Spy {
  const all = new Map<string, Record<string, string>>();
  const spy: { -readonly [K in keyof Spy]: Spy[K] } = {
    xenstore: real,
    states: [],
    requests: 0,
    hook: null,
    introduced: undefined,
    watches: new Map(),
    looks: new Map(),
    heard: new Map(),
  };
  const ask = async (verb: string, path: string): Promise<void> => {
    spy.requests++;
    await spy.hook?.(verb, path);
  };
  const note = (path: string, value: string): void => {
    const at = path.lastIndexOf("/");
    const directory = path.slice(0, at);
    const keys = { ...all.get(directory), [path.slice(at + 1)]: value };
    all.set(directory, keys);
    if (path.endsWith("/state")) spy.states.push({ directory, state: Number(value), keys });
  };
  const looksAt = (directory: string): number => spy.looks.get(directory) ?? 0;
  const requests = (
    to: XenstoreTransaction,
    wrote: (path: string, value: string) => void,
    reads: (path: string) => void = () => {},
  ): XenstoreTransaction => ({
    read: async (path) => {
      await ask("read", path);
      reads(path);
      return to.read(path);
    },
    directory: (path) => ask("directory", path).then(() => to.directory(path)),
    mkdir: (path) => ask("mkdir", path).then(() => to.mkdir(path)),
    remove: (path) => ask("remove", path).then(() => to.remove(path)),
    setPermissions: async (path, permissions) => to.setPermissions(path, permissions),
    write: async (path, value) => {
      await ask("write", path);
      await to.write(path, value);
      wrote(path, value);
    },
  });
  spy.xenstore = {
    ...requests(real, note),
    permissions: (path) => ask("permissions", path).then(() => real.permissions(path)),
    isDomainIntroduced: async (domid) => {
      await ask("introduced", `${domid}`);
      return spy.introduced === null ? null : real.isDomainIntroduced(domid);
    },
    watch: async (path, changed) => {
      await ask("watch", path);
      spy.watches.set(path, changed);
      const watch = await real.watch(path, (at) => {
        spy.heard.set(at, looksAt(dirname(at)));
        changed(at);
      });
      return {
        remove: async () => {
          await ask("unwatch", path);
          await watch.remove();
        },
      };
    },
    transaction: async (body) => {
      await ask("transaction", "");
      let writes: [string, string][] = [];
      let looks = false;
      // Every look begins with a transaction that reads the toolstack's keys; it may be made again.
      const reads = (path: string): void => {
        if (looks || !path.endsWith("/online")) return;
        looks = true;
        spy.looks.set(dirname(path), looksAt(dirname(path)) + 1);
      };
      const result = await real.transaction((t) => {
        writes = [];
        return body(requests(t, (path, value) => void writes.push([path, value]), reads));
      });
      for (const [path, value] of writes) note(path, value);
      return result;
    },
    get onClose() {
      return real.onClose;
    },
    set onClose(callback) {
      real.onClose = callback;
    },
    close: () => real.close(),
  };
  return spy;
}
