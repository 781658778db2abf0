import assert from "node:assert/strict";
import { test } from "node:test";
import * as words from "../../host/platform/loopback/evtchn-words.js";

/** Everything that a run of the protocol depends on. Actors are programs; `at` says where each one stands. */
interface State {
  words: Int32Array;
  /** By handle. */
  fifos: Record<number, number[]>;
  at: number[];
  /** Events that were raised, and how many of them the owner knew of when it last took one. */
  raised: number;
  seen: number;
  locals: Record<string, number | boolean>;
}

/** One indivisible step. It returns the place to go on at, or null when it cannot go on now. */
type Step = (state: State) => number | null;

const PORT = 1;
const END = 99;

function copyOf(state: State): State {
  return structuredClone(state);
}

/** Runs every interleaving; calls `check` where no actor can go on. Returns how many states there were. */
function explore(start: State, actors: Step[][], check: (state: State) => void): number {
  const known = new Set<string>();
  const open = [start];
  while (open.length > 0) {
    const state = open.pop() as State;
    const key = JSON.stringify([
      ...state.words,
      state.fifos,
      state.at,
      state.raised,
      state.seen,
      state.locals,
    ]);
    if (known.has(key)) continue;
    known.add(key);
    let stuck = true;
    for (const [i, steps] of actors.entries()) {
      const step = steps[state.at[i]];
      if (!step) continue;
      const next = copyOf(state);
      const place = step(next);
      if (place === null) continue;
      stuck = false;
      next.at[i] = place;
      open.push(next);
    }
    if (stuck) check(state);
  }
  return known.size;
}

function initial(actors: number): State {
  const state: State = {
    words: new Int32Array(2 * words.WORDS_PER_PORT),
    fifos: { 1: [], 2: [] },
    at: new Array<number>(actors).fill(0),
    raised: 0,
    seen: 0,
    locals: {},
  };
  words.open(state.words, PORT, 1);
  return state;
}

/** Raises the port `times` times, through a link of generation `generation`, to the FIFO of `handle`. */
function notifier(name: string, times: number, generation: number, handle: number): Step[] {
  const steps: Step[] = [];
  for (let i = 0; i < times; i++) {
    const first = steps.length;
    steps.push((s) => {
      s.raised++;
      return first + 1;
    });
    steps.push((s) => {
      s.locals[name] = words.raise(s.words, PORT, generation);
      return first + 2;
    });
    steps.push((s) => {
      if (s.locals[name]) s.fifos[handle].push(PORT);
      return first + 3;
    });
  }
  return steps;
}

/** Takes and unmasks for ever. */
function owner(name: string, handle: number): Step[] {
  return [
    (s) => {
      if (s.fifos[handle].length === 0) return null;
      s.fifos[handle].shift();
      return 1;
    },
    (s) => (words.take(s.words, PORT, handle) ? 2 : 0),
    (s) => {
      s.seen = s.raised;
      return 3;
    },
    (s) => {
      s.locals[name] = words.unmask(s.words, PORT, handle);
      return 4;
    },
    (s) => {
      if (s.locals[name]) s.fifos[handle].push(PORT);
      return 0;
    },
  ];
}

test("no interleaving of notifier and owner loses an event or queues a port twice", () => {
  const actors = [notifier("n", 3, 0, 1), owner("o", 1)];
  let longest = 0;
  const states = explore(initial(2), actors, (s) => {
    longest = Math.max(longest, s.fifos[1].length);
    assert.equal(s.seen, 3);
    assert.equal(words.isQueued(s.words, PORT), false);
  });
  assert.ok(states > 100, `${states} states`);
});

test("the FIFO never holds a port twice", () => {
  const steps = notifier("n", 3, 0, 1);
  const checked = owner("o", 1).map((step): Step => {
    return (s) => {
      assert.ok(s.fifos[1].length <= 1);
      return step(s);
    };
  });
  explore(initial(2), [steps, checked], () => {});
});

test("an event survives its notifier being killed anywhere", () => {
  const mortal = notifier("n", 2, 0, 1);
  const killed = mortal.length;
  // From any place, death may come next; then the hypervisor closes the peer and looks at the port.
  const killer: Step[] = [
    (s) => {
      s.at[0] = END;
      s.locals["died"] = true;
      return 1;
    },
    (s) => {
      if (words.isQueued(s.words, PORT)) s.fifos[1].push(PORT);
      return 2;
    },
    // A new process binds, and raises as often as it likes: here once.
    (s) => {
      s.raised++;
      return 3;
    },
    (s) => {
      s.locals["next"] = words.raise(s.words, PORT, 0);
      return 4;
    },
    (s) => {
      if (s.locals["next"]) s.fifos[1].push(PORT);
      return END;
    },
  ];
  let deaths = 0;
  explore(initial(3), [mortal, owner("o", 1), killer], (s) => {
    if (s.at[0] !== END && s.at[0] !== killed) return;
    deaths++;
    assert.equal(s.seen, s.raised);
  });
  assert.ok(deaths > 10);
});

test("what was meant for a closed port does not reach, or block, the next one of its number", () => {
  const reopened: Step[] = [
    (s) => {
      words.close(s.words, PORT);
      return 1;
    },
    // The number is given out again only when it is in no FIFO.
    (s) => (words.isQueued(s.words, PORT) ? null : 2),
    (s) => {
      words.open(s.words, PORT, 2);
      s.raised = s.seen = 0;
      return 3;
    },
    ...notifier("new", 1, 4, 2).map(
      (step): Step =>
        (s) =>
          (step(s) as number) + 3,
    ),
  ];
  const stale = notifier("old", 1, 0, 1).slice(1);
  const shifted = stale.map(
    (step): Step =>
      (s) =>
        (step(s) as number) - 1,
  );
  let ends = 0;
  explore(initial(4), [shifted, owner("o1", 1), reopened, owner("o2", 2)], (s) => {
    ends++;
    assert.equal(s.at[2], reopened.length, "the number is given out again");
    assert.equal(s.seen, 1);
  });
  assert.ok(ends > 0);
});
