/** The two ways to a helper, by the socket on which it listens. Each rejects with a {@link DialError} where there is none. */
import { DialError, type Line, openLine } from "../nbd/negotiate.js";
import { Session } from "../vhost-user/session.js";

/** For the answer to a message of the handshake, however long the start took. */
const ANSWER_MS = 10_000;

export type Dial<Connection> = (socket: string, milliseconds: number) => Promise<Connection>;

export const overNbd: Dial<Line> = (socket, milliseconds) =>
  openLine({ socket, host: "", port: 0, exportName: "" }, milliseconds);

export const overVhostUser: Dial<Session> = async (socket, milliseconds) => {
  const session = await Session.connect(socket, milliseconds).catch((error: NodeJS.ErrnoException) => {
    throw new DialError(error.code === undefined ? "unanswered" : "unreachable", error.message);
  });
  session.milliseconds = ANSWER_MS;
  return session;
};
