/** `xbdback upgrade`: this program in the place of the daemon that runs, under guests at work. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { closeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Command } from "commander";
import { control } from "../../daemon/control.js";
import { daemonAt, killAdvice, listenerAt, type Predecessor } from "../../daemon/replace.js";
import { VERSION } from "../../daemon/version.js";
import { XenbusState } from "../../platform/xenbus-state.js";
import { describeImage, type ImageStatus, type VbdStatus } from "../../vbd/status.js";
import { program } from "../child.js";
import { ask, socketOf } from "../daemon.js";
import { CliError, Exit } from "../errors.js";
import { type CommonOptions, examples, integer, placeOptions } from "../options.js";
import { printJson } from "../output.js";
import { RunningDaemon } from "../running-daemon.js";

interface UpgradeOptions extends CommonOptions {
  readonly timeout: number;
}

/** What became of a vbd whose guest was connected. */
interface Outcome {
  readonly name: string;
  /** For how long its guest had no answers; null when the daemon does not say. */
  readonly pauseMs: number | null;
  /** Why it is not at work again; null when it is. */
  readonly waitsFor: string | null;
}

const POLL_MS = 20;

export function upgradeCommand(): Command {
  const command = placeOptions(
    new Command("upgrade")
      .summary("replace the running daemon by this version")
      .description(
        "Checks that this version takes the running daemon's options, starts it with them, and hands the guests over: they\n" +
          "see a pause, which is printed. A daemon that is a systemd service is restarted by systemd.",
      )
      .option("--timeout <seconds>", "how long to wait for the guests' disks", integer(1, 86400), 60),
  );
  return examples(command, "xbdback upgrade", "xbdback upgrade --directory /dev/shm/machine").action(upgrade);
}

async function upgrade(options: UpgradeOptions): Promise<void> {
  const { json, timeout } = options;
  const socket = socketOf(options);
  const { version } = await ask<{ version: string }>(options, { command: "version" });
  const { vbds } = await ask<{ vbds: VbdStatus[] }>(options, { command: "list" });
  const connected = vbds.filter(({ state }) => state === XenbusState.Connected).map(({ name }) => name);
  const listener = await listenerAt(socket);
  if (listener === null) throw new CliError("the daemon has just ended: start the new one");
  const old = new RunningDaemon(listener);
  const { pid, unit } = old;
  rehearse(old, unit);
  // Without a unit, the new daemon looks for itself.
  if (unit !== null) refuseLostImages(vbds);
  const deadline = performance.now() + timeout * 1000;
  const successor = unit === null ? start(old) : restart(unit);
  const next = await untilReplaced(socket, old, successor, deadline);
  const outcomes = await untilTakenOver(socket, connected, deadline);
  const to = await control<{ version: string }>(socket, { command: "version" });
  if (json) {
    printJson({ from: { version, pid }, to: { version: to.version, pid: next }, unit, vbds: outcomes });
  } else {
    const by = unit === null ? "" : `, by systemd (${unit})`;
    process.stdout.write(`xbdback ${version} (process ${pid}) -> ${to.version} (process ${next})${by}\n`);
    for (const outcome of outcomes) process.stdout.write(`${tell(outcome)}\n`);
  }
  const waiting = outcomes.filter(({ waitsFor }) => waitsFor !== null).length;
  if (waiting === 0) return;
  throw new CliError(
    `${waiting} of ${outcomes.length} disks are not active again; their guests wait, and the old version can resume ` +
      "them: run its `xbdback upgrade`",
  );
}

function tell({ name, pauseMs, waitsFor }: Outcome): string {
  if (waitsFor !== null) return `${name}: waits for ${waitsFor}`;
  return pauseMs === null ? `${name}: connected` : `${name}: paused for ${pauseMs.toFixed(0)} ms`;
}

/** Lets this version read the options, while the old daemon serves on. Nothing runs in the environment of another user. */
function rehearse(old: RunningDaemon, unit: string | null): void {
  if (old.args.includes("--exit-with-parent")) {
    throw new CliError(`process ${old.pid} is managed by its parent process: restart that instead`);
  }
  const { stranger } = old;
  if (unit === null && stranger !== null)
    throw new CliError(`process ${old.pid} is of user ${stranger}: run this as that user; it serves on`);
  const { status, stderr } = spawnSync(process.execPath, [program, ...old.args, "--dump-config"], {
    cwd: old.directory,
    env: unit === null ? old.environment : process.env,
    encoding: "utf8",
  });
  if (status === 0) return;
  const why = stderr
    .trim()
    .split("\n")[0]
    .replace(/^(xbdback|error): /, "");
  throw new CliError(
    `xbdback ${VERSION} does not take the running daemon's options: ${why}; process ${old.pid} serves on`,
    Exit.usage,
  );
}

/** A disk that the next daemon would not find: its guest would wait, so the running daemon is left alone. */
export function refuseLostImages(vbds: readonly (ImageStatus & Pick<VbdStatus, "name" | "device">)[]): void {
  const lost = vbds.find(
    ({ imageState, imageKept }) => imageState !== null && imageState !== "ok" && !imageKept,
  );
  if (!lost) return;
  const { name, device } = lost;
  throw new CliError(`${name}: ${device}: ${describeImage(lost)}; the running daemon has not been stopped`);
}

/** Starts a daemon that takes the old one's place, and its output. */
function start(old: RunningDaemon): ChildProcess {
  const output = ([1, 2] as const).map((fd) => old.openOutput(fd));
  if (output[1] === null)
    process.stderr.write("xbdback: the new daemon's log goes nowhere, as the old one's is a socket\n");
  const child = spawn(process.execPath, [...old.nodeOptions, program, ...old.args, "--replace"], {
    cwd: old.directory,
    env: old.environment,
    detached: true,
    stdio: ["ignore", output[0] ?? "ignore", output[1] ?? "ignore"],
  });
  child.unref();
  for (const fd of output) if (fd !== null) closeSync(fd);
  return child;
}

/** Returns when the unit is up again. */
function restart(unit: string): null {
  const { status, stderr } = spawnSync("systemctl", ["restart", "--", unit], { encoding: "utf8" });
  if (status === 0) return null;
  throw new CliError(
    `systemctl restart ${unit} failed: ${stderr.trim().split("\n")[0]}; guests wait until it is up: \`journalctl -u ${unit}\``,
  );
}

/** Resolves with the new daemon's process once it answers. */
async function untilReplaced(
  socket: string,
  old: RunningDaemon,
  successor: ChildProcess | null,
  deadline: number,
): Promise<number> {
  for (;;) {
    const pid = await daemonAt(socket);
    if (pid !== null && pid !== old.pid) return pid;
    const ended = successor?.exitCode ?? successor?.signalCode ?? null;
    if (ended !== null) {
      const standing = pid === old.pid ? `process ${old.pid} serves on` : "guests wait for a daemon";
      throw new CliError(`the new daemon ended (${ended}), its log says why; ${standing}`);
    }
    if (performance.now() > deadline) {
      throw new CliError(
        `process ${old.pid} still waits for I/O of its disks, and process ${successor?.pid} for its end; ` +
          killAdvice(old.pid),
      );
    }
    await sleep(POLL_MS);
  }
}

/** Resolves with what became of the vbds of these names: those that are gone meanwhile are left out. */
async function untilTakenOver(
  socket: string,
  names: readonly string[],
  deadline: number,
): Promise<Outcome[]> {
  const { predecessor } = await control<{ predecessor?: Predecessor | null }>(socket, { command: "version" });
  const kept = new Set(predecessor?.unreleased.map(({ name }) => name));
  for (;;) {
    const { vbds } = await control<{ vbds: VbdStatus[] }>(socket, { command: "list" });
    const theirs = vbds.filter(({ name }) => names.includes(name));
    // Before it has looked at xenstore, it knows of none.
    const pending =
      names.length > theirs.length || theirs.some(({ name, queues }) => queues === 0 && !kept.has(name));
    if (!pending || performance.now() > deadline) {
      return theirs.map(({ name, handoverMs = null, queues, waitsFor }) => ({
        name,
        pauseMs: handoverMs,
        waitsFor: queues > 0 ? null : (heldBy(predecessor, name) ?? waitsFor),
      }));
    }
    await sleep(POLL_MS);
  }
}

/** What the process before still waits for, with a disk that it has not released; null where that is not known. */
function heldBy(predecessor: Predecessor | null | undefined, name: string): string | null {
  const unreleased = predecessor?.unreleased.find((one) => one.name === name);
  return unreleased ? `process ${predecessor?.pid}, which still has the disk: ${unreleased.why}` : null;
}
