/** The vectors as sessions: the corpus of the native fuzzer begins with them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { sessionsOf, vectorSessions } from "../../fuzz/vectors.js";
import { coreModule } from "../../host/core/load.js";
import { decodeSession, encodeSession, playSession, sessionMemory } from "../../host/session/index.js";
import { responseWords } from "../vectors/describe.js";
import { documentNames, isExpectation, parseVectors, readDocument } from "../vectors/document.js";
import { Player } from "../vectors/player.js";

const memory = sessionMemory();

/** A line of a session's log in the words of a vector's. */
function responseOf(line: string): string {
  const [, id, operation, status] = line.split(" ");
  return responseWords(BigInt(id), Number(operation), Number(status));
}

for (const file of documentNames()) {
  test(`${file}: as a session, every vector plays without a violation, and gets the responses of the vector`, () => {
    for (const vector of parseVectors(file, readDocument(file))) {
      const where = `${file}:${vector.line} ${vector.title}`;
      const player = new Player();
      for (const block of vector.blocks) if (!isExpectation(block)) player.play(block);
      const sessions = sessionsOf(vector);
      assert.ok(sessions.length > 0, `${where}: no session`);
      const responses = sessions.flatMap((session) => {
        // Through its bytes, as a fuzzer reads it: all that the converter writes is in range.
        const read = decodeSession(encodeSession(session));
        assert.deepEqual(read, session, where);
        const log = playSession(coreModule(), memory, read);
        return log.filter((line) => line.startsWith("response ")).map(responseOf);
      });
      // A session ends what a vector leaves under way; what the vector has seen comes first.
      const seen = player.responses;
      assert.deepEqual(responses.slice(0, seen.length).sort(), seen, where);
    }
  });
}

test("the corpus has a file for every vector", () => {
  const names = vectorSessions().map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  const vectors = documentNames().flatMap((file) => parseVectors(file, readDocument(file)));
  assert.ok(names.length >= vectors.length, `${names.length} files of ${vectors.length} vectors`);
});
