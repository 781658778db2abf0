import assert from "node:assert/strict";
import { test } from "node:test";
import { PortDispatcher, type PortHandler } from "../../host/guest/events.js";
import { FakeEvents } from "./fakes.js";

/** What a backend has to say, and a handler that hears it; the backend raises the port only when it was asked to. */
class Line implements PortHandler {
  readonly raise: () => void;
  /** Said and not yet heard; heard so far. */
  news = 0;
  heard = 0;
  expected = 0;
  listening = true;
  onHeard: () => void = () => {};

  constructor(events: FakeEvents, port: number) {
    this.raise = events.bind(port, () => {});
    PortDispatcher.of(events).add(port, this);
  }

  say(): void {
    this.news++;
    if (!this.listening) return;
    this.listening = false;
    this.raise();
  }

  get waits(): boolean {
    return this.heard < this.expected;
  }

  event(): void {
    this.look();
  }

  look(): boolean {
    const found = this.news > 0;
    this.heard += this.news;
    this.news = 0;
    if (found && !this.waits) this.onHeard();
    return found;
  }

  listen(): boolean {
    this.listening = true;
    return this.look();
  }
}

test("whatever is said is heard, whenever it is said, and in the end events are asked for", {
  timeout: 120_000,
}, async () => {
  const events = new FakeEvents();
  const ports = [await events.allocUnbound(), await events.allocUnbound()];
  const lines = ports.map((port) => new Line(events, port));
  try {
    let state = 1;
    const random = (below: number) => (state = (Math.imul(state, 1103515245) + 12345) >>> 1) % below;
    for (let round = 0; round < 400; round++) {
      // Sometimes one of the two is left alone for a while.
      const talking = lines.filter(() => random(4) > 0);
      const all = talking.map((line) => {
        line.expected = line.heard + 1 + random(20);
        return new Promise<void>((resolve) => {
          line.onHeard = resolve;
        });
      });
      for (const line of talking) {
        const sayAll = (): void => {
          line.say();
          if (line.heard + line.news >= line.expected) return;
          if (random(50) === 0) setTimeout(sayAll, 1);
          else setImmediate(sayAll);
        };
        sayAll();
      }
      await Promise.all(all);
    }
    while (lines.some(({ listening }) => !listening)) await new Promise((resolve) => setImmediate(resolve));
    for (const line of lines) assert.equal(line.heard, line.expected);
  } finally {
    for (const port of ports) PortDispatcher.of(events).remove(port);
    await events.close();
  }
});

test("a port that is removed while it is being looked at is not looked at any more", async () => {
  const events = new FakeEvents();
  const port = await events.allocUnbound();
  const dispatcher = PortDispatcher.of(events);
  const line = new Line(events, port);
  try {
    line.expected = 1000;
    for (let i = 0; i < 20; i++) {
      line.say();
      await new Promise((resolve) => setImmediate(resolve));
    }
    dispatcher.remove(port);
    const { heard } = line;
    line.news++;
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    assert.equal(line.heard, heard);
  } finally {
    await events.close();
  }
});

test("a port that its own event removes is not looked at any more", { timeout: 120_000 }, async () => {
  const events = new FakeEvents();
  const ports = [await events.allocUnbound(), await events.allocUnbound()];
  const dispatcher = PortDispatcher.of(events);
  const [talker, leaver] = ports.map((port) => new Line(events, port));
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  try {
    // While one is being looked at, so is any other that has an event.
    talker.expected = Number.POSITIVE_INFINITY;
    for (let heard = 0; heard < 1000 || talker.listening; heard = talker.heard) {
      talker.say();
      await turn();
    }
    leaver.onHeard = () => dispatcher.remove(ports[1]);
    leaver.expected = 1;
    leaver.say();
    while (leaver.heard === 0) {
      talker.say();
      await turn();
    }
    leaver.news++;
    for (let i = 0; i < 20; i++) await turn();
    assert.equal(leaver.heard, 1);
  } finally {
    for (const port of ports) dispatcher.remove(port);
    await events.close();
  }
});
