/** The command tree of `xbdback`. Each command's own file does the work; here are its words. */
import { Command, CommanderError, Option } from "commander";
import { LOG_FORMATS, LOG_LEVELS } from "../daemon/log.js";
import { DEFAULT_PLANE } from "../daemon/serve.js";
import { DESCRIPTION, VERSION } from "../daemon/version.js";
import { pageSizeRefusal } from "../platform/page-size.js";
import { DEFAULT_CAPS } from "../reactor/capped.js";
import { dismissThread } from "../reactor/spare.js";
import { CACHES } from "../storage/direct.js";
import { DEFAULT_PATIENCE } from "../storage/patience.js";
import { operatorCommands } from "./commands/index.js";
import { DEFAULT_FILE, live } from "./configuration.js";
import { demo } from "./demo.js";
import { CliError, Exit, exitCodeOf } from "./errors.js";
import { type GuestOptions, guest } from "./guest.js";
import { stopAtOutputError } from "./lifetime.js";
import { resolveNames } from "./named-vbd.js";
import {
  deviceOption,
  directoryOption,
  guestLimitTexts,
  httpAddress,
  integer,
  kind,
  limitText,
  metricsAddress,
  size,
} from "./options.js";
import { serveCommand } from "./serve.js";

/** The commands that map guests' pages. */
const MAPPING = ["demo", "guest", "machine", "serve"];

/** How the guest connects: the same options for every command that plays a guest. */
function frontendOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--abi <name>", "layout of the requests on the ring")
        .choices(["x86_64", "x86_32", "native"])
        .default("x86_64"),
    )
    .option("--ring-page-order <n>", "the ring has 2^n pages, 0 to 4", integer(0, 4), 0)
    .option("--queues <n>", "rings, 1 to 4", integer(1, 4), 1)
    .option("--no-indirect", "requests of 11 segments (44 KiB) at most")
    .option("--no-persistent", "grant each page for one request only");
}

/** How the backend gets to its disks. */
function planeOptions(command: Command): Command {
  return command
    .addOption(
      live(
        new Option(
          "--cache <how>",
          "the host's page cache; auto: none for block devices and disks with direct-io-safe, writeback for other images",
        )
          .choices(CACHES)
          .default("auto"),
      ),
    )
    .addOption(
      new Option("--engine <name>", "how I/O gets to the kernel; auto: io_uring if available")
        .choices(["auto", "io_uring", "libuv"])
        .default(DEFAULT_PLANE.engine),
    )
    .option(
      "--reactors <n>",
      "threads that serve one guest's rings, at most; default one a core",
      integer(1, 64),
      DEFAULT_PLANE.reactors,
    )
    .option(
      "--poll-us <n>",
      "microseconds that a thread polls before it sleeps",
      integer(0, 1e6),
      DEFAULT_PLANE.pollUs,
    );
}

function demoCommand(): Command {
  const command = frontendOptions(
    new Command("demo")
      .summary("serve a disk to a guest on this machine, without Xen")
      .description(
        "Starts a loopback machine (hypervisor, xenstore), a backend and a guest, each a process, joined by shared\n" +
          "ring pages, a grant table and event channels.\n\n" +
          "Without --run and IMAGE, the guest runs a workload that verifies every byte. With --run, the guest's disk is\n" +
          "exported over NBD on a private socket, and CMD runs with its URI in $uri. With IMAGE alone, the export lasts\n" +
          "until Ctrl-C.",
      )
      .argument(
        "[image]",
        "raw image, block device or any target, such as device:/PATH/MODULE.js; a temporary image when left out",
      )
      .option("--run <cmd>", "run CMD in a shell with $uri set, and exit with its status")
      .option("--size <size>", "size of the temporary image", size)
      .option("--read-only", "the guest may not write", false),
  );
  return planeOptions(command)
    .option("--operations <n>", "operations of the workload", integer(1, 1e9), 20000)
    .option("--depth <n>", "operations in flight at once", integer(1, 1024), 32)
    .option("--seed <n>", "of the workload's random numbers", integer(0, 0xffffffff), 1)
    .option("--json", "print one JSON object and nothing else on stdout", false)
    .addHelpText(
      "after",
      `
Examples:
  xbdback demo
  xbdback demo disk.img --run 'nbdinfo "$uri"'
  xbdback demo --size 1G --run 'nbdcopy --flush image.raw "$uri"'
  xbdback demo --size 1G --no-indirect --run 'fio --name=t --ioengine=nbd --uri="$uri" --rw=randrw --size=64M'
  xbdback demo disk.img --read-only
  xbdback demo "device:$PWD/examples/device/memory.js?size=64M" --run 'nbdinfo "$uri"'`,
    )
    .action(async (image: string | undefined, options) => {
      process.exitCode = await demo({ ...options, image });
    });
}

/** What one guest may have. */
function capOptions(command: Command): Command {
  const { vbds, rings, grants, memory } = DEFAULT_CAPS;
  return command
    .option("--max-vbds <n>", "disks that one guest may have, connected or not", integer(1, 4096), vbds)
    .option("--max-rings <n>", "rings that one guest may have, all disks together", integer(1, 4096), rings)
    .option(
      "--max-grants <n>",
      "pages of one guest that may be mapped: 1 to 16 for each ring, and persistent grants while there is room; all " +
        "guests together have as many as half of vm.max_map_count",
      integer(1, 1e7),
      grants,
    )
    .addOption(
      new Option(
        "--max-memory <size>",
        "memory that one guest's rings may use, 6M to 90M for each: where little is left, fewer requests of more than 44K " +
          "are in flight at once",
      )
        .argParser(size)
        .default(memory, "a quarter of the machine's, at most 5720M"),
    );
}

function liveNumber(flags: string, what: string, low: number, high: number, normally: number): Option {
  return live(new Option(flags, what).argParser(integer(low, high)).default(normally));
}

function serve(): Command {
  const command = new Command("serve")
    .summary("serve the disks of Xen's guests, or of a loopback machine's")
    .description("Watches xenstore and serves every vbd that the toolstack adds, until SIGTERM or SIGINT.")
    .addOption(directoryOption())
    .option(
      "--kind <name>",
      "directory below backend/ in xenstore: vbd, vbd3, qdisk or your own",
      kind,
      "vbd",
    )
    .addOption(liveNumber("--max-queues <n>", "rings offered to a frontend, 1 to 16", 1, 16, 4))
    .addOption(liveNumber("--max-ring-page-order <n>", "rings of up to 2^n pages, 0 to 4", 0, 4, 4))
    .addOption(
      liveNumber("--max-indirect-segments <n>", "segments of an indirect request, 0 to 256", 0, 256, 256),
    )
    .addOption(live(new Option("--no-persistent", "do not offer persistent grants")))
    .addOption(
      liveNumber(
        "--nbd-reconnect <seconds>",
        "how long I/O waits for a lost NBD, vhost-user or web server before it fails",
        1,
        86_400,
        DEFAULT_PATIENCE.reconnectMs / 1000,
      ),
    )
    .addOption(
      live(
        new Option(
          "--limit <limits>",
          "of each disk that has none of its own: iops=N+bps=SIZE+burst=SECONDS, some of them, or none",
        ).argParser(limitText),
      ),
    )
    .addOption(
      live(
        new Option(
          "--guest-limit <guest:limits>",
          "the same for the disks of the guest of this name, which overrides --limit; repeatable",
        )
          .argParser(guestLimitTexts)
          .default([], "none"),
      ),
    )
    .addOption(deviceOption())
    .option("--http <address>", "serve a read-only page there: 127.0.0.1:PORT or [::1]:PORT", httpAddress)
    .addOption(
      new Option("--log-format <how>", "of the log on stderr; auto: pretty on a terminal, else logfmt")
        .choices(LOG_FORMATS)
        .default("auto"),
    )
    .addOption(
      live(
        new Option("--log-level <level>", "the least level that is logged")
          .choices(LOG_LEVELS)
          .default("info"),
        "from now on",
      ),
    );
  return planeOptions(capOptions(command))
    .option(
      "--metrics <address>",
      "serve Prometheus there: 127.0.0.1:PORT, [::1]:PORT, or the path of a Unix socket",
      metricsAddress,
    )
    .option(
      "--drain-timeout <seconds>",
      "how long SIGTERM waits for requests in flight; the next daemon repeats the others",
      integer(0, 3600),
      60,
    )
    .option("--config <file>", `read this configuration; default ${DEFAULT_FILE}, if it is there`)
    .option("--dump-config", "print the resulting configuration, and exit", false)
    .option("--replace", "replace the running daemon once this one is ready, and resume its guests", false)
    .option("--exit-with-parent", "stop when standard input ends, and leave SIGINT to the parent", false)
    .addHelpText(
      "after",
      `
Examples:
  xbdback serve
  xbdback serve --directory /dev/shm/machine
  xbdback serve --config my.toml --max-queues 2 --dump-config`,
    )
    .action(async () => {
      await serveCommand(command);
    });
}

function guestCommand(): Command {
  return frontendOptions(
    new Command("guest")
      .summary("play a guest on a loopback machine")
      .description(
        "Connects a vbd as a guest's kernel would; prints what happens as JSON, one object a line.",
      )
      .addOption(directoryOption("the loopback machine to join").makeOptionMandatory())
      .option("--domid <n>", "the guest's domain", integer(1, 0x7fef), 1)
      .option("--devid <n>", "virtual-device number", integer(0, 0xffffffff), 51712),
  )
    .option("--nbd <path>", "export the disk over NBD on this Unix socket")
    .option("--workload <n>", "run N verified operations, then close the disk", integer(1, 1e9))
    .option("--depth <n>", "operations in flight at once", integer(1, 1024), 32)
    .option("--seed <n>", "of the workload's random numbers", integer(0, 0xffffffff), 1)
    .option("--exit-with-parent", "stop when standard input ends, and leave SIGINT to the parent", false)
    .addHelpText("after", "\nExample:\n  xbdback guest --directory /dev/shm/machine --nbd /tmp/disk.sock")
    .action(async (options: GuestOptions) => {
      await guest(options);
    });
}

export function program(): Command {
  const root = new Command("xbdback")
    .description(DESCRIPTION)
    .version(VERSION, "-V, --version", "print the version")
    .addCommand(demoCommand())
    .addCommand(serve())
    .addCommand(guestCommand());
  for (const command of operatorCommands()) root.addCommand(command);
  root.showHelpAfterError("(--help shows the options)");
  root.hook("preAction", (_, command) => {
    const refusal = MAPPING.includes(command.name()) ? pageSizeRefusal() : null;
    if (refusal !== null) throw new CliError(refusal);
    return resolveNames(command);
  });
  for (const command of [root, ...root.commands]) {
    // The help wraps it to the terminal; here it is wrapped for who reads the source.
    command.description(command.description().replace(/(?<!\n)\n(?!\n)/g, " ")).exitOverride();
  }
  return root;
}

/** One line, and the exit code. XBDBACK_DEBUG adds the stack. */
function tell(error: unknown): number {
  const { message, code } = error as Partial<NodeJS.ErrnoException>;
  const text = message || code || String(error);
  process.stderr.write(`xbdback: ${text.replace(/\s*\n\s*/g, "; ")}\n`);
  if (process.env["XBDBACK_DEBUG"] && !(error instanceof CliError)) console.error(error);
  return exitCodeOf(error);
}

/** Runs the command line and sets the exit code; errors become one line on stderr. */
export async function run(argv: readonly string[]): Promise<void> {
  // Whoever reads what we print has had enough.
  const failed = stopAtOutputError();
  // Empty is how a shell's user unsets it.
  if (process.env["XBDBACK_DIRECTORY"] === "") delete process.env["XBDBACK_DIRECTORY"];
  // A log that nobody reads any more is no reason to leave guests without their disks.
  process.stderr.on("error", () => {});
  process.on("uncaughtException", (error) => process.exit(tell(error)));
  try {
    await program().parseAsync([...argv]);
  } catch (thrown) {
    // What stopped a command in order is told, and not that it was stopped.
    const error = failed() ?? thrown;
    if ((error as NodeJS.ErrnoException).code === "EPIPE") return;
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? Exit.ok : Exit.usage;
      return;
    }
    process.exitCode = tell(error);
  } finally {
    dismissThread();
  }
}
