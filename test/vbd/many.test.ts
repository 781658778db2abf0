/** Many vbds at once, and a xenstored that has not room or patience for them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Xenstore, XenstoreError } from "../../host/platform/ports.js";
import { addVbd, removeVbd } from "../../host/toolstack/vbd.js";
import { backendPath, LIMIT, type Machine, onMachine, until } from "./harness.js";

function specs(path: string, count: number) {
  return Array.from({ length: count }, (_, i) => ({
    backendDomid: 0,
    domid: 1 + (i % 8),
    devid: (1 << 28) | (i << 8),
    path,
    mode: "r",
    dev: `xvd${i}`,
  }));
}

async function connectAll(machine: Machine, count: number): Promise<void> {
  const path = machine.image();
  const guests = new Map<number, Awaited<ReturnType<Machine["guest"]>>>();
  for (let domid = 1; domid <= 8; domid++) guests.set(domid, await machine.guest(domid));
  await Promise.all(
    specs(path, count).map(async (spec) => {
      await addVbd(machine.xenstore, spec, 60_000);
      const front = machine.front(guests.get(spec.domid)!, spec.devid);
      await front.write(await front.ring());
      await front.state(3);
    }),
  );
  await until(
    "all are connected",
    () =>
      machine.backend.status().filter(({ state, queues }) => state === 4 && queues === 1).length === count,
    60_000,
  );
  assert.equal(machine.reactor.mappedPages, count);
  const trouble = machine.log.filter((line) => !line.startsWith("xbd backend"));
  assert.equal(trouble.length, 0, `${trouble.length} lines of trouble, the first: ${trouble[0]}`);
  // In the other direction: the guests are destroyed, the toolstack removes what is left.
  for (const { domid } of guests.values()) await machine.host.killGuest(domid);
  const removals = await Promise.all(
    specs(path, count).map((spec) => removeVbd(machine.xenstore, spec, 60_000)),
  );
  assert.deepEqual(new Set(removals), new Set(["closed"]));
  await until("all are gone", () => machine.backend.status().length === 0, 60_000);
  await machine.untilClean();
}

test(
  "256 vbds are attached, connected and removed at once",
  { timeout: 180_000 },
  onMachine((machine) => connectAll(machine, 256)),
);

/** A xenstored of the old school: a transaction fails when any other was committed since it began, by any client. */
function quarrelsome(...clients: Xenstore[]): { conflicts: number } {
  const count = { conflicts: 0 };
  let commits = 0;
  for (const client of clients) {
    const transaction = client.transaction.bind(client);
    client.transaction = (body) =>
      transaction(async (t) => {
        const began = commits;
        const result = await body(t);
        if (commits !== began) {
          count.conflicts++;
          throw new XenstoreError("EAGAIN", "transaction");
        }
        commits++;
        return result;
      });
  }
  return count;
}

test(
  "64 at once where every transaction is in every other's way",
  { timeout: 180_000 },
  onMachine(async (machine) => {
    const count = quarrelsome(machine.own, machine.xenstore);
    await connectAll(machine, 64);
    assert.ok(count.conflicts > 64, `${count.conflicts} conflicts`);
  }),
);

for (const code of ["ENOSPC", "EACCES", "EAGAIN", "E2BIG"]) {
  test(
    `xenstored says ${code} to all that we write, for a while`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      let refusing = true;
      machine.spy.hook = (verb, path) => {
        if (refusing && (verb === "write" || verb === "watch") && path.includes("/vbd/")) {
          throw new XenstoreError(code, `${verb} ${path}`);
        }
      };
      await machine.plug({ path: machine.image() });
      await until("it is known", () => machine.status()?.error != null);
      assert.match(machine.status()?.error ?? "", new RegExp(`^xenstore: .*: ${code}`));
      await machine.looked();
      assert.equal(await machine.state(), 1);
      refusing = false;
      await machine.untilState(2);
      const disk = await machine.connect(guest);
      refusing = true;
      // What is connected stays so: the guest's I/O does not need xenstore.
      await machine.xenstore.write(`${backendPath()}/online`, "1");
      await disk.write(0, new Uint8Array(4096));
      await guest.xenstore.write("/local/domain/1/device/vbd/51712/state", "5");
      await until("it is told", () => machine.log.some((line) => line.includes("trying again")));
      refusing = false;
      await machine.untilState(5);
      await until("no trouble is left", () => machine.status()?.error === null);
    }),
  );
}

test(
  "an error node that may not be written does not keep a refusal from coming to its end",
  LIMIT,
  onMachine(async (machine) => {
    await machine.guest();
    machine.spy.hook = (verb, path) => {
      if (verb === "write" && path.includes("/error/")) throw new XenstoreError("EACCES", `write ${path}`);
    };
    const guest = machine.front(await machine.guest(2));
    await machine.plug({ path: machine.image(), domid: 2 });
    await guest.state(3);
    await machine.untilState(6, 51712, 2);
    assert.equal(machine.status(51712, 2)?.error, "ring-ref is missing");
  }),
);
