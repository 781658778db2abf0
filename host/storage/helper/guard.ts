/**
 * The process that ends the helpers of a daemon that has ended and is not followed by another one: a lock tells it so. One
 * for all helpers of a machine, in a session of its own. It is in Perl, as the launcher is, for its few megabytes.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { tryLock } from "../../platform/libc.js";
import { SYS_close_range } from "../../platform/numbers.js";
import { OWN_VARIABLES } from "../../platform/service-variables.js";
import { findProgram } from "./command.js";

/** How long helpers wait for the next daemon. A service manager starts one after a second. */
const GRACE_SECONDS = 30;

/**
 * Its arguments: the directory in which helpers have theirs, and the seconds. It finds them by their command lines, which name
 * a socket there: also those that were being started when the daemon died, or whose directory was removed.
 */
const GUARD = String.raw`
my ($directory, $grace) = @ARGV;
# What the daemon has inherited itself.
syscall(${SYS_close_range}, 3, 0xffffffff, 0);
my ($LOCK_EX, $LOCK_NB, $LOCK_UN) = (2, 4, 8);

sub helpers {
  my @found;
  for my $process (grep { m{/[0-9]+$} } files("/proc")) {
    open(my $file, "<", "$process/cmdline") or next;
    local $/;
    my $line = <$file> // "";
    my ($pid) = $process =~ /([0-9]+)$/;
    push @found, $pid if $pid != $$ && index($line, "\"$directory/") >= 0;
  }
  return @found;
}

sub files {
  my ($where) = @_;
  opendir(my $open, $where) or return ();
  return map { "$where/$_" } grep { !/^\.\.?$/ } readdir $open;
}

sub wait_until(&$) {
  my ($condition, $seconds) = @_;
  for (1 .. $seconds * 20) {
    return 1 if $condition->();
    select(undef, undef, undef, 0.05);
  }
  return $condition->();
}

# One guard is enough. The one before may just be about to end.
open(my $only, ">>", "$directory/guard") or exit 1;
wait_until { flock($only, $LOCK_EX | $LOCK_NB) } 1 or exit 0;
open(my $daemons, ">>", "$directory/daemons") or exit 1;
for (;;) {
  # There is no daemon.
  flock($daemons, $LOCK_EX);
  helpers() or last;
  my $before = -s $daemons;
  flock($daemons, $LOCK_UN);
  wait_until { !-d $directory || !helpers() } $grace;
  flock($daemons, $LOCK_EX | $LOCK_NB) or next;
  # One that came meanwhile, and has ended as well: its helpers have their time, too.
  next if -s $daemons != $before;
  kill "HUP", helpers();
  wait_until { !helpers() } 15;
  kill "KILL", helpers();
  last;
}
for my $place (grep { -d } files($directory)) {
  unlink files($place);
  rmdir $place;
}
`;

/** Says that this process has helpers in a directory, until it ends; false while those of a daemon before are being ended. */
export class Guarded {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  static claim(directory: string, seconds = GRACE_SECONDS): Guarded | null {
    const fd = openSync(join(directory, "daemons"), "a", 0o600);
    if (!tryLock(fd, false)) {
      closeSync(fd);
      return null;
    }
    // It tells the guard that there was another daemon.
    writeSync(fd, "\n");
    const perl = findProgram("perl");
    if (perl !== null) {
      const env = { ...process.env };
      for (const name of [...OWN_VARIABLES, "PERL5OPT", "PERL5LIB"]) delete env[name];
      const args = ["-e", GUARD, directory, String(seconds)];
      const guard = spawn(perl, args, { cwd: "/", detached: true, stdio: "ignore", env });
      guard.on("error", () => {});
      guard.unref();
    }
    return new Guarded(fd);
  }

  release(): void {
    closeSync(this.#fd);
  }
}
