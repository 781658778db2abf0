/** Ring sessions: files of what went over a ring, and a player. No platform. */
export {
  decodeSession,
  encodeSession,
  readSession,
  type Session,
  type SessionHeader,
  type SessionRecord,
} from "./file.js";
export type { GrantCopy, SessionGrants } from "./grants.js";
export type { MemoryRun, SessionIo } from "./ios.js";
export { playSession, type SessionObserver, SessionPlayer, sessionMemory } from "./player.js";
export type { RingResponse } from "./ring.js";
export { Violation } from "./violation.js";
