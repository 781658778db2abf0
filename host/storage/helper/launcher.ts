/**
 * The program that becomes a helper: it confines itself to what the helper needs, by Landlock, gives up what rights it can,
 * and executes the helper's program in its own place. A process of its own does this, because a confined thread remains so.
 *
 * A daemon of another release may start it, after an upgrade: what its orders mean does not change; they may get more fields.
 */
import * as confinement from "../../platform/confinement.js";
import type { Orders } from "./confined.js";
import { rulesFor } from "./reach.js";

function launch({ parent, reach }: Orders, program: string, args: readonly string[]): void {
  if (!confinement.endWithParent(parent)) return;
  confinement.forbidNewPrivileges();
  const needed = [...reach.files, ...reach.configuration.map((path) => ({ path, writable: false }))];
  const keep = !confinement.canAccess(needed);
  const version = confinement.landlockVersion();
  if (version > 0) confinement.confine(version, rulesFor(program, reach), reach.remote);
  confinement.dropCapabilities(keep);
  confinement.become(program, [program, ...args]);
}

try {
  const [, , orders, program, ...args] = process.argv;
  launch(JSON.parse(orders) as Orders, program, args);
} catch (error) {
  process.stderr.write(`it cannot be confined: ${(error as Error).message}\n`);
  process.exitCode = 1;
}
