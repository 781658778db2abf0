/** `xbdback serve`. */
import { serve } from "../daemon/serve.js";
import { CliError, Exit } from "./errors.js";
import { untilStopped } from "./lifetime.js";

export interface ServeCommandOptions {
  directory?: string;
  maxQueues: number;
  maxRingPageOrder: number;
  maxIndirectSegments: number;
  persistent: boolean;
  exitWithParent: boolean;
}

export async function serveCommand(options: ServeCommandOptions): Promise<void> {
  const { directory, exitWithParent, ...features } = options;
  if (directory === undefined) {
    throw new CliError(
      "no Xen here that this version can serve: name a loopback machine with --directory, or try `xbdback demo`",
      Exit.noXen,
    );
  }
  const stopped = untilStopped(exitWithParent);
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  let lose: (error: Error) => void = () => {};
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  const daemon = await serve({ directory, features, log }, lose);
  await Promise.race([stopped, lost]);
  await daemon.stop();
  process.exit();
}
