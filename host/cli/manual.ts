/** The sections of xbdback(8) about the commands, in mdoc(7), made of the command tree: they cannot say other things. */
import type { Command, Option } from "commander";
import { configurable, FOR_LATER_DISKS, whenTaken } from "./configuration.js";

/** One `.Ss` for each command. */
export function commandSections(program: Command): string {
  const commands = program.createHelp().visibleCommands(program);
  return commands
    .filter((command) => command.name() !== "help")
    .map(commandSection)
    .join("\n");
}

/** The keys of a configuration file, as items of a list. */
export function keyList(command: Command): string {
  const items = [...configurable(command)].map(([key, option]) => {
    const [item, ...rest] = optionItem(option).split("\n");
    const word = item.replace(/^.*? Ar /, "");
    const several = Array.isArray(option.defaultValue) ? ` | [ Ns Ar ${word} , No ...]` : "";
    const value = option.required || option.optional ? ` Ar ${word}${several}` : " Cm true | false";
    const meaning = option.negate ? ["Offer persistent grants.", "The default is true."] : rest;
    return [`.It Cm ${key} Li =${value}`, ...meaning].join("\n");
  });
  return `.Bl -tag -width Ds\n${items.join("\n")}\n.El`;
}

/** The keys that a reload takes up, in a sentence's order. */
export function liveKeys(command: Command): string {
  const keys = [...configurable(command)]
    .filter(([, option]) => whenTaken(option) === FOR_LATER_DISKS)
    .map(([key]) => key);
  const last = keys.pop();
  return [...keys.map((key, i) => `.Cm ${key}${i < keys.length - 1 ? " ," : ""}`), "and", `.Cm ${last}`].join(
    "\n",
  );
}

/** Text that mdoc takes as it is, each sentence on a line of its own. */
function prose(text: string): string {
  const sentences = text.replace(/\s+/g, " ").replace(/([.:;]) (?=[A-Z])/g, "$1\n");
  return protect(sentences);
}

/** No backslash is an escape, and no line a macro. */
function protect(text: string): string {
  return text.replaceAll("\\", "\\e").replace(/^(?=[.'])/gm, "\\&");
}

function asSentence(text: string): string {
  const [first = ""] = text;
  return prose(`${first.toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`);
}

function placeholderOf(flags: string): string {
  const [, bracket, name] = /([<[])(.*?)[>\]]/.exec(flags) ?? [];
  if (name === undefined) return "";
  return bracket === "[" ? ` Op Ar ${name}` : ` Ar ${name}`;
}

function optionItem(option: Option): string {
  const notes: string[] = [];
  if (option.argChoices) notes.push(`One of ${option.argChoices.join(", ")}.`);
  const { defaultValue, envVar } = option;
  const plain = typeof defaultValue === "string" || typeof defaultValue === "number";
  if (plain && !option.negate && option.long !== "--reactors") {
    notes.push(`The default is ${option.defaultValueDescription ?? defaultValue}.`);
  }
  if (envVar) notes.push(`Without it, the value of\n.Ev ${envVar}\nis taken.`);
  const short = option.short ? `Fl ${option.short.slice(1)} , ` : "";
  const head = `.It ${short}Fl ${(option.long as string).slice(1)}${placeholderOf(option.flags)}`;
  return [head, asSentence(option.description), ...notes].join("\n");
}

/** What `addHelpText` has behind the options, where it is examples. */
function examplesOf(command: Command): string {
  let help = "";
  const before = command.configureOutput();
  command.configureOutput({ ...before, writeOut: (text) => (help += text) });
  command.outputHelp();
  command.configureOutput(before);
  const [, examples = ""] = help.split(/^Examples?:\n/m);
  const lines = examples.trimEnd().replace(/^ {2}/gm, "");
  return lines === "" ? "" : `.Pp\nFor example:\n.Bd -literal -offset indent\n${protect(lines)}\n.Ed`;
}

function commandSection(command: Command): string {
  const operands = command.registeredArguments.map((argument) => {
    const name = `${argument.name()}${argument.variadic ? " ..." : ""}`;
    return argument.required ? `.Ar ${name}` : `.Op Ar ${name}`;
  });
  const items = [
    ...command.registeredArguments.map(
      (argument) => `.It Ar ${argument.name()}\n${asSentence(argument.description)}`,
    ),
    ...command.options.filter((option) => !option.hidden).map(optionItem),
  ];
  return [
    `.Ss ${command.name()}`,
    `.Nm xbdback Cm ${command.name()}`,
    ...(command.options.length > 0 ? [".Op Ar options"] : []),
    ...operands,
    ".Pp",
    asSentence(command.summary()),
    prose(command.description()),
    ".Bl -tag -width Ds",
    ...items,
    ".El",
    examplesOf(command),
  ]
    .filter((line) => line !== "")
    .join("\n");
}
