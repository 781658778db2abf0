/** Completion for bash and zsh, made of the command tree itself, so that it knows exactly what there is. */
import type { Argument, Command, Option } from "commander";

/** The shells that `xbdback completion` writes for. */
export const SHELLS = ["bash", "zsh"] as const;
export type Shell = (typeof SHELLS)[number];

/** The completion script of a program's commands. */
export function completion(program: Command, shell: Shell): string {
  return shell === "bash" ? bash(program) : zsh(program);
}

/** What a value may be: one of these words, a file, or anything. */
type Values = readonly string[] | "file" | "any";

const FILES = /^(path|file|image|directory)$/i;

function optionValues(option: Option): Values {
  if (option.argChoices) return option.argChoices;
  const [, name = ""] = /[<[](.*?)[>\]]/.exec(option.flags) ?? [];
  return FILES.test(name) ? "file" : "any";
}

function argumentValues(argument: Argument): Values {
  return argument.argChoices ?? (FILES.test(argument.name()) ? "file" : "any");
}

/** A command's options as help shows them, with --help. */
function optionsOf(command: Command): readonly Option[] {
  return command.createHelp().visibleOptions(command);
}

function commandsOf(program: Command): readonly Command[] {
  return program.createHelp().visibleCommands(program);
}

function takesValue(option: Option): boolean {
  return option.required || option.optional;
}

function bashReply(values: Values): string {
  if (values === "any") return "COMPREPLY=()";
  if (values === "file") return "_xbdback_files";
  return `_xbdback_words '${values.join(" ")}'`;
}

function bash(program: Command): string {
  const commands = commandsOf(program);
  const names = commands.map((command) => command.name());
  const values: string[] = [];
  const words: string[] = [];
  for (const command of commands) {
    const name = command.name();
    const options = optionsOf(command);
    for (const option of options.filter(takesValue)) {
      values.push(`    ${name},${option.long}) ${bashReply(optionValues(option))}; return ;;`);
    }
    const flags = options.map((option) => option.long).join(" ");
    const [argument] = command.registeredArguments;
    words.push(
      `    ${name},-*) _xbdback_words '${flags}' ;;`,
      `    ${name},*) ${bashReply(argument ? argumentValues(argument) : flags.split(" "))} ;;`,
    );
  }
  return `# bash completion for xbdback. Made by \`xbdback completion bash\`.
_xbdback_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current"); }
_xbdback_files() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current"); }

_xbdback() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command= word
  # bash parts --option=value into three words.
  if [[ $current == = ]]; then
    current=
  elif [[ $previous == = ]]; then
    previous=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case $word in ${names.join(" | ")}) command=$word; break ;; esac
  done
  case $command,$previous in
${values.join("\n")}
  esac
  case $command,$current in
${words.join("\n")}
    ,*) _xbdback_words '${[...names, ...optionsOf(program).map((option) => option.long)].join(" ")}' ;;
  esac
}
complete -F _xbdback xbdback
`;
}

/** A word within single quotes of the shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Within the brackets and between the colons of a specification of _arguments. */
function zshText(text: string): string {
  return text.replace(/\s+/g, " ").replace(/[[\]:\\]/g, "\\$&");
}

function zshAction(values: Values): string {
  if (values === "any") return "";
  return values === "file" ? "_files" : `(${values.join(" ")})`;
}

function zshOption(option: Option): string {
  const description = zshText(option.description);
  const name = option.long as string;
  if (!takesValue(option)) return quoted(`${name}[${description}]`);
  const colon = option.optional ? "::" : ":";
  return quoted(
    `${name}=[${description}]${colon}${option.attributeName()}:${zshAction(optionValues(option))}`,
  );
}

function zshArgument(argument: Argument): string {
  const optional = argument.required ? "" : ":";
  return quoted(
    `${argument.variadic ? "*" : optional}:${argument.name()}:${zshAction(argumentValues(argument))}`,
  );
}

function zsh(program: Command): string {
  const commands = commandsOf(program);
  const described = commands.map((command) =>
    quoted(`${command.name()}:${command.summary() || command.description()}`),
  );
  const cases = commands.map((command) => {
    const specifications = [
      ...optionsOf(command).map(zshOption),
      ...command.registeredArguments.map(zshArgument),
    ];
    return `    ${command.name()})\n      _arguments \\\n        ${specifications.join(" \\\n        ")}\n      ;;`;
  });
  return `#compdef xbdback
# zsh completion for xbdback. Made by \`xbdback completion zsh\`.
_xbdback() {
  local -a commands=(
    ${described.join("\n    ")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    _arguments \\
      ${optionsOf(program).map(zshOption).join(" \\\n      ")}
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${cases.join("\n")}
  esac
}
if [[ $funcstack[1] == _xbdback ]]; then _xbdback "$@"; else compdef _xbdback xbdback; fi
`;
}
