/** `xbdback completion`. */
import { Argument, Command } from "commander";
import { completion, SHELLS, type Shell } from "../completion.js";
import { examples } from "../options.js";

export function completionCommand(): Command {
  const command = new Command("completion")
    .summary("print the completion script of a shell")
    .description("Prints a script that completes commands and options. The Debian package installs it.")
    .addArgument(new Argument("<shell>", "whose script").choices(SHELLS));
  return examples(command, "source <(xbdback completion bash)").action((shell: Shell) => {
    process.stdout.write(completion(command.parent as Command, shell));
  });
}
