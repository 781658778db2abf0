/** What a shell offers after a line, in the shells themselves. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { completion } from "../../host/cli/completion.js";
import { program } from "../../host/cli/main.js";
import { absent } from "../support/programs.js";

const directory = mkdtempSync(join(tmpdir(), "xbdback-completion-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
writeFileSync(join(directory, "two words.img"), "");
const bashScript = join(directory, "bash");
writeFileSync(bashScript, completion(program(), "bash"));
// Where zsh's fpath finds it, as installed.
mkdirSync(join(directory, "functions"));
writeFileSync(join(directory, "functions/_xbdback"), completion(program(), "zsh"));

/** What bash offers when Tab is pressed behind these words, `=` being one. */
function bash(...words: string[]): string[] {
  const script = `source ${bashScript}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xbdback; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr, status } = spawnSync("bash", ["-c", script, "bash", "xbdback", ...words], {
    cwd: directory,
    encoding: "utf8",
  });
  assert.deepEqual([status, stderr], [0, ""]);
  return stdout.split("\n").filter((line) => line !== "");
}

test("bash completes commands, options, their values and files", { skip: absent("bash") }, () => {
  assert.deepEqual(bash("se"), ["serve"]);
  for (const command of program().commands) assert.ok(bash("").includes(command.name()), command.name());
  assert.deepEqual(bash("serve", "--eng"), ["--engine"]);
  assert.deepEqual(bash("serve", "--engine", "i"), ["io_uring"]);
  assert.deepEqual(bash("serve", "--engine", "=", "li"), ["libuv"]);
  assert.deepEqual(bash("serve", "--engine", "="), ["auto", "io_uring", "libuv"]);
  assert.deepEqual(bash("serve", "--kind", ""), []);
  assert.deepEqual(bash("demo", "two"), ["two words.img"]);
  assert.deepEqual(bash("guest", "--nbd", "two"), ["two words.img"]);
  assert.deepEqual(bash("completion", ""), ["bash", "zsh"]);
});

test("bash offers every option of every command", { skip: absent("bash") }, () => {
  for (const command of program().commands) {
    const options = command.options.flatMap(({ hidden, long }) => (hidden ? [] : [long as string]));
    assert.deepEqual(bash(command.name(), "--").sort(), [...options, "--help"].sort(), command.name());
  }
});

const ready = "TYPE_NOW";
writeFileSync(
  join(directory, ".zshrc"),
  `PS1=${ready}
fpath=(${directory}/functions $fpath)
autoload -U compinit
compinit -u -D
cd ${directory}
dump() { print -r -- "$BUFFER" > line.new; mv line.new line }
zle -N dump
bindkey '^I' complete-word '^B' dump
`,
);

/** The line that zsh makes of what is typed when Tab is pressed behind it. */
function zsh(typed: string): string {
  const out = join(directory, "line");
  rmSync(out, { force: true });
  const script = `
    zmodload zsh/zpty
    zpty shell 'TERM=dumb ZDOTDIR=${directory} zsh -d -i'
    zpty -r shell seen '*${ready}*'
    zpty -n -w shell "$1"$'\t\x02'
    repeat 400; do [[ -e ${out} ]] && break; zpty -r -t shell seen; sleep 0.05; done
    zpty -d shell`;
  const { stderr, error } = spawnSync("zsh", ["-f", "-c", script, "zsh", typed], {
    encoding: "utf8",
    timeout: 120_000,
  });
  assert.deepEqual([error, stderr], [undefined, ""]);
  return readFileSync(out, "utf8").trimEnd();
}

test("zsh completes commands, options, their values and files", { skip: absent("zsh") }, () => {
  assert.equal(zsh("xbdback se"), "xbdback serve");
  assert.equal(zsh("xbdback serve --eng"), "xbdback serve --engine=");
  assert.equal(zsh("xbdback serve --engine=io"), "xbdback serve --engine=io_uring");
  assert.equal(zsh("xbdback serve --engine li"), "xbdback serve --engine libuv");
  assert.equal(zsh("xbdback demo two"), "xbdback demo two\\ words.img");
  assert.equal(zsh("xbdback completion b"), "xbdback completion bash");
});
