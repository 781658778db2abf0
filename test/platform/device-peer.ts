/** A process whose descriptor 3 is what /dev/xen/xenbus would be: runs a few requests and prints what came of them. */

import { deviceStream } from "../../host/platform/xen/xenstore.js";
import { openXenstore } from "../../host/platform/xenstore/client.js";

function say(what: string, value: unknown): void {
  process.stdout.write(`${JSON.stringify([what, value])}\n`);
}

const xenstore = openXenstore(deviceStream(3, "/dev/xen/xenbus"));
xenstore.onClose = (error) => {
  say("lost", error.message);
  process.exit();
};
await xenstore.write("/a/b", "1");
await xenstore.transaction(async (t) => t.write("/a/b", `${await t.read("/a/b")}2`));
say("read", await xenstore.read("/a/b"));
for (const bytes of [4080 - "/big\0".length, 4080 - "/big\0".length + 1]) {
  const outcome = await xenstore.write("/big", "x".repeat(bytes)).then(
    () => "written",
    (error: Error) => error.message,
  );
  say("size", outcome);
}
async function changed(path: string): Promise<void> {
  say("changed", path);
  if (path !== "/a/go") return;
  const keys = Array.from({ length: 8 }, (_, i) => `/at/once/${i}`);
  for (let times = 0; times < 3; times++) {
    const written = xenstore.write("/a/own", "1");
    say("at once", (await Promise.all(keys.map((key) => xenstore.read(key)))).join(""));
    await written;
  }
}

await xenstore.watch("/a", (path) => void changed(path));
say("ready", null);
