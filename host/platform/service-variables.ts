/** What a service manager gives to the one process that it starts: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). */
export const OWN_VARIABLES = [
  "NOTIFY_SOCKET",
  "WATCHDOG_USEC",
  "WATCHDOG_PID",
  "LISTEN_FDS",
  "LISTEN_FDNAMES",
  "LISTEN_PID",
];
