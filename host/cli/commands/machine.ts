/** `xbdback machine`: a loopback machine to try the other commands on. */
import { Command, InvalidArgumentError, Option } from "commander";
import { LoopbackHost } from "../../platform/loopback/host.js";
import { untilStopped } from "../lifetime.js";
import { examples, size } from "../options.js";
import { printJson } from "../output.js";

interface MachineOptions {
  readonly guests: number[];
  readonly memory: number;
  readonly json: boolean;
  readonly exitWithParent: boolean;
}

export function machineCommand(): Command {
  const command = new Command("machine")
    .summary("run a loopback machine, to try xbdback without Xen")
    .description(
      "Makes a small hypervisor and a xenstore in a directory, with the domains of guests that do nothing yet, until\n" +
        "Ctrl-C. `xbdback serve` joins it as domain 0, `xbdback guest` plays a guest's driver.",
    )
    .argument("<directory>", "created if it does not exist; best on a tmpfs, like /dev/shm/machine")
    .option("--guests <domids>", "domains to make", domids, [1])
    .addOption(
      new Option("--memory <size>", "memory of each guest").argParser(size).default(256 << 20, "256M"),
    )
    .option("--json", "print JSON when it runs", false)
    .option("--exit-with-parent", "stop when standard input ends, and leave SIGINT to the parent", false);
  return examples(
    command,
    "xbdback machine /dev/shm/machine --guests 1,2 &",
    "export XBDBACK_DIRECTORY=/dev/shm/machine",
    "xbdback serve &",
    "xbdback attach 1 /tmp/disk.img,,xvda",
    "xbdback guest --nbd /tmp/disk.sock &",
    "xbdback list",
  ).action(machine);
}

function domids(text: string): number[] {
  const list = text.split(",").map(Number);
  const good = list.every((domid) => Number.isInteger(domid) && domid > 0 && domid < 0x7ff0);
  if (!good || new Set(list).size < list.length || !/^[0-9,]+$/.test(text)) {
    throw new InvalidArgumentError("It is a list of domains, like 1,2,3.");
  }
  return list;
}

async function machine(
  directory: string,
  { guests, memory, json, exitWithParent }: MachineOptions,
): Promise<void> {
  const stopped = untilStopped(exitWithParent);
  const host = await LoopbackHost.start(directory);
  for (const domid of guests) await host.createGuest(domid, memory);
  if (json) printJson({ directory, guests, memory });
  else process.stdout.write(`machine ${directory}: domain 0, guests ${guests.join(", ")}\n`);
  await stopped;
  await host.close();
}
