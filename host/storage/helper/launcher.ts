import {
  F_DUPFD,
  SYS_close_range,
  SYS_faccessat2,
  SYS_landlock_add_rule,
  SYS_landlock_create_ruleset,
  SYS_landlock_restrict_self,
} from "../../platform/numbers.js";

/**
 * The program that becomes a helper: it gives up what rights it can, confines itself by Landlock, and executes the helper's
 * program in its own place. A process of its own has to, since a confined thread stays confined, and Node has nothing
 * between fork and exec. It is in Perl, which Debian cannot be without, and which starts in 2 ms of CPU time; Node takes 55.
 *
 * Its arguments: the parent's pid; the numbers of prctl, capget, capset and rt_sigprocmask; the signal that the program gets
 * when the parent ends, or 0, and one to block, or 0; the descriptor that it gets its standard input as, or 0; what Landlock is to handle (files, TCP, scope), what of it is for files; a
 * count, and so many pairs of access and path: Landlock's rules; a count, and so many pairs of mode and path: the files for
 * which capabilities may be needed; and the program's command line.
 */
export const LAUNCHER = String.raw`
my ($PR_SET_PDEATHSIG, $PR_CAPBSET_READ, $PR_CAPBSET_DROP, $PR_SET_NO_NEW_PRIVS, $PR_CAP_AMBIENT) = (1, 23, 24, 38, 47);
my $PR_CAP_AMBIENT_LOWER = 3;
my ($faccessat2, $landlock_create_ruleset) = (${SYS_faccessat2}, ${SYS_landlock_create_ruleset});
my ($landlock_add_rule, $landlock_restrict_self) = (${SYS_landlock_add_rule}, ${SYS_landlock_restrict_self});
my $SIG_BLOCK = 0;
my ($AT_FDCWD, $AT_EACCESS, $O_PATH) = (-100, 0x200, 010000000);
my ($CAP_DAC_OVERRIDE, $CAP_DAC_READ_SEARCH, $CAP_SETPCAP) = (1, 2, 8);

sub check {
  my ($result, $what) = @_;
  return $result if $result >= 0;
  print STDERR "it cannot be confined: $what: $!\n";
  exit 1;
}

# A string is an address to syscall(): what is a number has to be one.
my ($parent, $prctl, $capget, $capset, $sigprocmask, $death, $blocked, $connection, $files, $tcp, $scoped, $for_files) =
  map { $_ + 0 } splice(@ARGV, 0, 12);
my @rules = splice(@ARGV, 0, 2 * shift(@ARGV));
my @needed = splice(@ARGV, 0, 2 * shift(@ARGV));

# What the daemon has inherited itself, from a shell perhaps. Before Linux 5.9 it stays.
syscall(${SYS_close_range}, 3, 0xffffffff, 0);

if ($connection) {
  check(fcntl(STDIN, ${F_DUPFD}, $connection) // -1, "F_DUPFD");
  open(STDIN, "<", "/dev/null");
}

if ($blocked) {
  # It stays blocked in the program.
  my $set = pack("Q", 1 << $blocked - 1);
  check(syscall($sigprocmask, $SIG_BLOCK, $set, 0, 8), "rt_sigprocmask");
}
check(syscall($prctl, $PR_SET_PDEATHSIG, $death, 0, 0, 0), "PR_SET_PDEATHSIG");
exit 0 if getppid() != $parent;
check(syscall($prctl, $PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");

# Can the files be opened without any capability? Those of root are put aside to see; access(2) heeds no other user's.
my $header = pack("Ll", 0x20080522, 0);
my $before = pack("L6", (0) x 6);
check(syscall($capget, $header, $before), "capget");
my ($effective, $permitted, $inheritable, @upper) = unpack("L6", $before);
my $root = $< == 0;
my $without = pack("L6", 0, $permitted, $inheritable, 0, @upper[1, 2]);
my $keep = $root && syscall($capset, $header, $without) < 0;
for (my $i = 0; $i < @needed && !$keep; $i += 2) {
  my ($mode, $path) = ($needed[$i] + 0, $needed[$i + 1]);
  $keep = syscall($faccessat2, $AT_FDCWD, $path, $mode, $root ? $AT_EACCESS : 0) < 0;
}
syscall($capset, $header, $before) if $root;

if ($files) {
  my $attributes = pack("QQQ", $files, $tcp, $scoped);
  my $size = $scoped ? 24 : $tcp ? 16 : 8;
  my $ruleset = check(syscall($landlock_create_ruleset, $attributes, $size, 0), "landlock_create_ruleset");
  for (my $i = 0; $i < @rules; $i += 2) {
    # What is not there needs no rule.
    sysopen(my $handle, $rules[$i + 1], $O_PATH) or next;
    my $access = $rules[$i] & $files & (-d $handle ? -1 : $for_files);
    my $rule = pack("Ql", $access, fileno($handle));
    check(syscall($landlock_add_rule, $ruleset, 1, $rule, 0), "landlock_add_rule $rules[$i + 1]");
  }
  check(syscall($landlock_restrict_self, $ruleset, 0), "landlock_restrict_self");
}

# Of all capabilities, those to files are kept, and only if they are needed.
my @kept = $keep ? ($CAP_DAC_OVERRIDE, $CAP_DAC_READ_SEARCH) : ();
for (my $capability = 0; syscall($prctl, $PR_CAPBSET_READ, $capability, 0, 0, 0) >= 0; $capability++) {
  next if grep { $_ == $capability } @kept;
  syscall($prctl, $PR_CAP_AMBIENT, $PR_CAP_AMBIENT_LOWER, $capability, 0, 0);
  check(syscall($prctl, $PR_CAPBSET_DROP, $capability, 0, 0, 0), "PR_CAPBSET_DROP") if $effective & 1 << $CAP_SETPCAP;
}
my $mask = 0;
$mask |= 1 << $_ for @kept;
# Root's program gets what is inheritable. Where a filter forbids this call, we are not root.
my $after = pack("L6", $effective, $permitted, $inheritable & $mask, $upper[0], $upper[1], 0);
syscall($capset, $header, $after);

my $program = $ARGV[0];
exec { $program } @ARGV;
check(-1, "execve $program");
`;
