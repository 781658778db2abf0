/** The operator's commands, in the order of the help. */
import type { Command } from "commander";
import { attachCommand } from "./attach.js";
import { checkCommand } from "./check.js";
import { detachCommand } from "./detach.js";
import { listCommand } from "./list.js";
import { machineCommand } from "./machine.js";
import { resizeCommand } from "./resize.js";
import { showCommand } from "./show.js";

export function operatorCommands(): Command[] {
  return [
    attachCommand(),
    detachCommand(),
    listCommand(),
    showCommand(),
    resizeCommand(),
    checkCommand(),
    machineCommand(),
  ];
}
