/** `xbdback events`. */
import { Command } from "commander";
import type { EventLine } from "../../daemon/events.js";
import { askOnAndOn } from "../daemon.js";
import { type CommonOptions, examples, integer, placeOptions } from "../options.js";
import { printJson } from "../output.js";

interface EventsOptions extends CommonOptions {
  readonly count?: number;
}

export function eventsCommand(): Command {
  const command = placeOptions(
    new Command("events")
      .summary("tell what happens to disks, as it happens")
      .description(
        "One line for each event: attached (to a connected guest), detached, resumed (after a restart of the daemon,\n" +
          "or where a suspended guest continues), migrating (the disk of a suspended guest is released), changed (another\n" +
          "medium), resized, refused, failed (an I/O), halted (a guest has spoilt its ring), waiting (the storage does not\n" +
          "answer) and answering. The first line, `began`, says that no event is missed from now on. Of\n" +
          "events that a guest causes many of, one a second is told.",
      ),
  ).option("-n, --count <n>", "end after this many events", integer(1, 1e9));
  return examples(
    command,
    "xbdback events",
    `xbdback events --json | jq -r 'select(.event == "waiting") | .name'`,
  ).action(events);
}

async function events(options: EventsOptions): Promise<void> {
  const { count = Number.POSITIVE_INFINITY, json } = options;
  let told = 0;
  let began = false;
  const print = (line: object, ...words: string[]): void => {
    if (json) printJson(line);
    else process.stdout.write(`${words.join(" ")}\n`);
  };
  for await (const { events = [], dropped = 0 } of askOnAndOn<EventLine>(options, { command: "events" })) {
    if (!began) {
      began = true;
      const time = new Date().toISOString();
      print({ time, event: "began" }, time, "began");
    }
    for (const event of events.slice(0, count - told)) {
      print(event, event.time, event.name, event.event, event.message);
      told++;
    }
    if (told >= count) return;
    if (dropped === 0) continue;
    if (json) printJson({ dropped });
    else process.stderr.write(`xbdback: ${dropped} more events that are not shown\n`);
  }
  process.stderr.write("xbdback: the daemon has ended; ask the next one\n");
}
