/** The operator's commands, in the order of the help. */
import type { Command } from "commander";
import { attachCommand } from "./attach.js";
import { changeCommand } from "./change.js";
import { checkCommand } from "./check.js";
import { commitCommand } from "./commit.js";
import { completionCommand } from "./completion.js";
import { decodeCommand } from "./decode.js";
import { detachCommand } from "./detach.js";
import { eventsCommand } from "./events.js";
import { limitCommand } from "./limit.js";
import { listCommand } from "./list.js";
import { machineCommand } from "./machine.js";
import { pauseCommand, unpauseCommand } from "./pause.js";
import { recordCommand } from "./record.js";
import { replacedCommand } from "./replaced.js";
import { replayCommand } from "./replay.js";
import { reportCommand } from "./report.js";
import { resizeCommand } from "./resize.js";
import { showCommand } from "./show.js";
import { snapshotCommand } from "./snapshot.js";
import { statsCommand } from "./stats.js";
import { statusCommand } from "./status.js";
import { topCommand } from "./top.js";
import { traceCommand } from "./trace.js";
import { upgradeCommand } from "./upgrade.js";

export function operatorCommands(): Command[] {
  return [
    attachCommand(),
    detachCommand(),
    listCommand(),
    showCommand(),
    statsCommand(),
    statusCommand(),
    topCommand(),
    eventsCommand(),
    traceCommand(),
    resizeCommand(),
    changeCommand(),
    snapshotCommand(),
    commitCommand(),
    replacedCommand(),
    pauseCommand(),
    unpauseCommand(),
    limitCommand(),
    upgradeCommand(),
    checkCommand(),
    recordCommand(),
    replayCommand(),
    decodeCommand(),
    machineCommand(),
    reportCommand(),
    completionCommand(),
  ];
}
