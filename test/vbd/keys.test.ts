/** What a frontend and a toolstack can write that cannot be: said clearly, and without harm to what comes after. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { assumedProtocolOn } from "../../host/vbd/frontend.js";
import type { Front, Keys } from "./front.js";
import { backendPath, frontendPath, type Guest, LIMIT, type Machine, onMachine, until } from "./harness.js";

interface Case {
  readonly name: string;
  /** Changes to the keys of a good ring. */
  readonly keys: (front: Front, guest: Guest, machine: Machine) => Keys | Promise<Keys>;
  readonly says: RegExp;
}

const fixed = (keys: Keys) => () => keys;

const CASES: Case[] = [
  ...["99", "-1", "1000000000", "4294967296", "5"].map((order) => ({
    name: `ring-page-order ${order}`,
    keys: fixed({ "ring-page-order": order }),
    says: new RegExp(`^ring-page-order is ${order}, not in the range 0 to 4$`),
  })),
  {
    name: "ring-page-order x",
    keys: fixed({ "ring-page-order": "x" }),
    says: /^ring-page-order is "x", not a number$/,
  },
  {
    name: "ring-page-order 1e9",
    keys: fixed({ "ring-page-order": "1e9" }),
    says: /^ring-page-order is "1e9", not a number$/,
  },
  ...["32", "-1", "4294967295"].map((pages) => ({
    name: `num-ring-pages ${pages}`,
    keys: fixed({ "num-ring-pages": pages }),
    says: new RegExp(`^num-ring-pages is ${pages}, not in the range 0 to 16$`),
  })),
  ...["0", "3"].map((pages) => ({
    name: `num-ring-pages ${pages}`,
    keys: fixed({ "num-ring-pages": pages }),
    says: new RegExp(`^num-ring-pages is ${pages}, not a power of 2$`),
  })),
  {
    name: "two sizes of one ring",
    keys: fixed({ "num-ring-pages": "4", "ring-page-order": "1" }),
    says: /^num-ring-pages is 4, but ring-page-order 1 means 2$/,
  },
  {
    name: "num-queues 0",
    keys: fixed({ "multi-queue-num-queues": "0" }),
    says: /^multi-queue-num-queues is 0$/,
  },
  ...["5", "4294967295", "99999999999"].map((queues) => ({
    name: `num-queues ${queues}`,
    keys: fixed({ "multi-queue-num-queues": queues }),
    says: /^multi-queue-num-queues is "?[0-9]+"?, not (in the range 0 to 4|a number)$/,
  })),
  {
    name: "two queues and the keys of one",
    keys: fixed({ "multi-queue-num-queues": "2" }),
    says: /^queue-0\/ring-ref is missing$/,
  },
  { name: "no ring-ref", keys: fixed({ "ring-ref": null }), says: /^ring-ref is missing$/ },
  { name: "a blank ring-ref", keys: fixed({ "ring-ref": "" }), says: /^ring-ref is missing$/ },
  {
    name: "a gref that was never granted",
    keys: fixed({ "ring-ref": "4711" }),
    says: /^can't map grant ref 4711 of domain 1: generalError \(-1\)$/,
  },
  {
    name: "a gref beyond the table",
    keys: fixed({ "ring-ref": "-1" }),
    says: /^can't map grant ref 4294967295 of domain 1: badGntref \(-3\)$/,
  },
  {
    name: "a gref for another domain",
    keys: (_, { pages }) => ({ "ring-ref": String(pages.grant(7, pages.allocate(1), false)) }),
    says: /^can't map grant ref [0-9]+ of domain 1: generalError/,
  },
  {
    name: "a read-only gref",
    keys: (front) => front.ring(true),
    says: /^can't map grant ref [0-9]+ of domain 1: generalError/,
  },
  {
    name: "the second page of a ring is amiss",
    keys: async (front) => ({
      "ring-page-order": "1",
      "ring-ref0": (await front.ring())["ring-ref"],
      "ring-ref1": "99999",
    }),
    says: /^can't map grant ref 99999 of domain 1: badGntref/,
  },
  {
    name: "the third ring of four is amiss",
    keys: (front) => fourQueues(front, 2),
    says: /^can't map grant ref 4711 of domain 1: generalError/,
  },
  {
    name: "event-channel 0",
    keys: fixed({ "event-channel": "0" }),
    says: /^port 0 of domain 1 is not waiting for domain 0$/,
  },
  {
    name: "no event-channel",
    keys: fixed({ "event-channel": null }),
    says: /^event-channel is missing$/,
  },
  {
    name: "an event channel of nobody's",
    keys: fixed({ "event-channel": "3000" }),
    says: /^port 3000 of domain 1 is not waiting for domain 0$/,
  },
  {
    name: "an event channel for another domain",
    keys: async (_, { events }) => ({ "event-channel": String(await events.allocUnbound(7)) }),
    says: /^port [0-9]+ of domain 1 is not waiting for domain 0$/,
  },
  {
    name: "protocol vax-abi",
    keys: fixed({ protocol: "vax-abi" }),
    says: /^protocol "vax-abi" is unknown \(x86_64-abi, x86_32-abi, arm-abi\)$/,
  },
  {
    name: "a protocol that plays with the terminal",
    keys: fixed({ protocol: "\x1b[2J\u009b1m\r\nroot: all is well\u2028\u202e\u200b" }),
    says: /^protocol "\\u001b\[2J\\u\{9b\}1m\\r\\nroot: all is well\\u\{2028\}\\u\{202e\}\\u\{200b\}" is unknown/,
  },
  {
    name: "a protocol of a thousand characters",
    keys: fixed({ protocol: "x".repeat(1000) }),
    says: /^protocol "x{64}…" is unknown/,
  },
  {
    name: "a ring that starts with more requests than it holds",
    keys: async (front) => {
      const keys = await front.ring();
      front.reqProd = 33;
      return keys;
    },
    says: /^req_prod is more than a ring ahead of rsp_prod$/,
  },
];

/** Keys of four queues, of which one has a ring that cannot be mapped. */
async function fourQueues(front: Front, bad: number): Promise<Keys> {
  const keys: Keys = { "multi-queue-num-queues": "4" };
  for (let queue = 0; queue < 4; queue++) {
    const ring = await front.ring();
    keys[`queue-${queue}/ring-ref`] = queue === bad ? "4711" : ring["ring-ref"];
    keys[`queue-${queue}/event-channel`] = ring["event-channel"];
  }
  return keys;
}

for (const { name, keys, says } of CASES) {
  test(
    `bad keys: ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      const front = machine.front(guest);
      await machine.untilState(2);
      const good = await front.ring();
      await front.write({ ...good, ...(await keys(front, guest, machine)) });
      await front.state(3);
      await machine.untilState(6);
      await machine.looked();
      await machine.untilState(6);
      // Closing, Closed, and no going round in circles while the frontend stays at 3. A second try there may be: if the
      // first look saw the 3 before its event came.
      const states = machine.spy.states.map(({ state }) => state).join("");
      assert.match(states, /^(256){1,2}$/);
      const error = (await machine.error()) ?? "";
      assert.match(error, /^22 [^\n\r]+$/);
      assert.match(error.slice(3), says);
      assert.deepEqual(machine.log, [`xbdback1i51712: ${error.slice(3)}`]);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
      assert.doesNotMatch(machine.log[0], /[\x00-\x1f\x7f-\x9f]/);
      assert.equal(machine.status()?.error, error.slice(3));
      await machine.untilClean();

      // The same guest does better, and nothing tells of the trouble any more.
      await front.state(6);
      await front.state(1);
      await machine.untilState(2);
      const disk = await machine.connect(guest);
      await disk.write(0, new Uint8Array(4096));
      assert.equal(await machine.error(), null);
      assert.equal(machine.status()?.error, null);
      assert.deepEqual(await disk.close(), { grantsInUse: 0 });
    }),
  );
}

/** Ring sizes in both schemes of blkif.h, and in both at once. */
for (const [pages, size] of [
  [1, { "num-ring-pages": "1" }],
  [2, { "num-ring-pages": "2" }],
  [16, { "num-ring-pages": "16" }],
  [4, { "ring-page-order": "2" }],
  [4, { "num-ring-pages": "4", "ring-page-order": "2" }],
  [2, { "num-ring-pages": "02\n", "ring-page-order": "" }],
] as const) {
  test(
    `a ring of ${pages} pages by ${JSON.stringify(size)}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const front = machine.front(guest);
      const first = await front.ring();
      const keys: Keys = { ...first, ...size };
      for (let page = 0; pages > 1 && page < pages; page++) {
        const ref =
          page === 0 ? first["ring-ref"] : String(guest.pages.grant(0, guest.pages.allocate(1), false));
        keys[`ring-ref${page}`] = ref;
      }
      await front.write({ ...keys, ...(pages > 1 ? { "ring-ref": null } : {}) });
      await front.state(3);
      await machine.untilState(4);
      assert.equal(machine.status()?.ringPages, pages);
    }),
  );
}

const ODD_BUT_FINE: { name: string; keys: (good: Keys) => Keys }[] = [
  { name: "ring-page-order blank", keys: () => ({ "ring-page-order": "" }) },
  { name: "ring-page-order 0 and ring-ref", keys: () => ({ "ring-page-order": "0" }) },
  {
    name: "ring-page-order 0 and ring-ref0",
    keys: (good) => ({ "ring-page-order": "0", "ring-ref0": good["ring-ref"], "ring-ref": null }),
  },
  {
    name: "num-ring-pages 1 and ring-ref0",
    keys: (good) => ({ "num-ring-pages": "1", "ring-ref0": good["ring-ref"], "ring-ref": null }),
  },
  {
    name: "numbers with a newline, a space or a zero",
    keys: (good) => ({
      "ring-ref": `${good["ring-ref"]}\n`,
      "event-channel": ` 00${good["event-channel"]}`,
      "multi-queue-num-queues": "01",
    }),
  },
  { name: "a stale ring-ref0 beside ring-ref", keys: () => ({ "ring-ref0": "4711" }) },
  { name: "no protocol", keys: () => ({ protocol: null }) },
  { name: "one queue, at the top", keys: () => ({ "multi-queue-num-queues": "1" }) },
  {
    name: "one queue, in queue-0",
    keys: (good) => ({
      "multi-queue-num-queues": "1",
      "queue-0/ring-ref": good["ring-ref"],
      "queue-0/event-channel": good["event-channel"],
      "ring-ref": null,
      "event-channel": null,
    }),
  },
];

for (const { name, keys } of ODD_BUT_FINE) {
  test(
    `odd keys that are fine: ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const front = machine.front(guest);
      const good = await front.ring();
      await front.write({ ...good, ...keys(good) });
      await front.state(3);
      await machine.untilState(4);
    }),
  );
}

for (const [name, three, four] of [
  ["a newline", "3\n", "4\n"],
  ["a leading zero", "03", "04"],
  ["white space and a sign", " +3", "\t4 "],
] as const) {
  test(
    `a frontend's state with ${name} is what Linux reads`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const front = machine.front(guest);
      await front.write({ ...(await front.ring()), state: three });
      await machine.untilState(4);
      await front.write({ state: four });
      await front.write({ state: "06\n" });
      await machine.untilState(6);
    }),
  );
}

test("what is assumed is x86_32-abi on Xen on x86, arm-abi on Arm, and native on the loopback platform", () => {
  assert.equal(assumedProtocolOn("xen", "x64"), "x86_32-abi");
  assert.equal(assumedProtocolOn("xen", "arm64"), "arm-abi");
  assert.equal(assumedProtocolOn("loopback", "x64"), "native");
  assert.equal(assumedProtocolOn("loopback", "arm64"), "native");
});

for (const [assumedProtocol, abi] of [
  ["x86_32-abi", "x86_32"],
  ["native", "x86_64"],
  ["arm-abi", "x86_64"],
] as const) {
  test(
    `a frontend without protocol, where ${assumedProtocol} is assumed`,
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        await machine.plug({ path: machine.image() });
        for (const protocol of [null, ""]) {
          const disk = await machine.connect(guest, { abi, protocol });
          const bytes = new Uint8Array(8192).fill(0x5a);
          await disk.write(4096, bytes);
          const back = new Uint8Array(8192);
          await disk.read(4096, back);
          assert.deepEqual(back, bytes);
          assert.equal(machine.status()?.protocol, assumedProtocol);
          await disk.close();
          await machine.untilState(6);
        }
        const said = machine.log.filter((line) => line.includes("names no protocol"));
        assert.deepEqual(said, [
          `xbdback1i51712: the frontend names no protocol; ${assumedProtocol} is assumed`,
        ]);
      },
      { assumedProtocol },
    ),
  );
}

test(
  "a refused frontend that says 3 again is looked at again",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    await front.state(3);
    await machine.untilState(6);
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(4);
  }),
);

for (const [name, keys] of Object.entries({
  "frontend-id of another domain": { "frontend-id": "2" },
  "frontend of another domain": { frontend: "/local/domain/2/device/vbd/51712" },
  "frontend of another device": { frontend: "/local/domain/1/device/vbd/51728" },
  "frontend somewhere else": { frontend: "/local/domain/1/data" },
  "no frontend": { frontend: null },
  "no frontend-id": { "frontend-id": null },
})) {
  test(
    `identity (XSA-175): ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const front = machine.front(guest);
      await machine.plug({ path: machine.image(), keys });
      await machine.untilState(6);
      await front.write(await front.ring());
      for (const state of [3, 4, 1, 3]) await front.state(state);
      await machine.looked();
      assert.deepEqual(
        machine.spy.states.map(({ state }) => state),
        [5, 6],
      );
      assert.match(
        (await machine.error()) ?? "",
        /^22 frontend-id ".*" and frontend ".*" do not belong to .*\/backend\/vbd\/1\/51712$/,
      );
      assert.equal(machine.log.length, 1);
      assert.equal(machine.reactor.mappedPages, 0);
      await machine.unplug();
      await until("the vbd is gone", () => machine.status() === undefined);
      assert.equal(await machine.error(), null);
    }),
  );
}

for (const [name, where, permissions, who] of [
  ["the directory is the guest's", "", ["n1", "r0"], "domain 1"],
  ["the directory is everybody's", "", ["w0", "r1"], "every domain"],
  ["the guest may write the directory", "", ["n0", "b1"], "domain 1"],
  ["the guest may write mode", "/mode", ["n0", "w1"], "domain 1"],
  ["params is another guest's", "/params", ["n9"], "domain 9"],
  ["another domain may write physical-device-path", "/physical-device-path", ["r0", "r1", "b9"], "domain 9"],
] as const) {
  test(
    `whose word counts (XSA-178): ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      await machine.xenstore.setPermissions(`${backendPath()}${where}`, permissions);
      const front = machine.front(guest);
      await front.write(await front.ring());
      await front.state(3);
      await machine.untilState(6);
      assert.equal(
        await machine.error(),
        `22 ${backendPath()}${where} may be written by ${who}: the toolstack must give it to the backend's domain`,
      );
      assert.equal(machine.reactor.mappedPages, 0);
      await machine.xenstore.setPermissions(`${backendPath()}${where}`, ["n0", "r1"]);
      await front.state(1);
      await (await machine.connect(guest)).close();
    }),
  );
}

for (const lie of [
  { backend: "/local/domain/2/backend/vbd/1/51712" },
  { backend: "/local/domain/0/backend/qdisk/1/51712" },
  { backend: "" },
]) {
  test(
    `a frontend that names another backend is not connected: ${JSON.stringify(lie.backend)}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const front = machine.front(guest);
      await front.write({ ...(await front.ring()), ...lie });
      await front.state(3);
      await machine.untilState(6);
      assert.match((await machine.error()) ?? "", /^22 backend is ".*", not .*\/backend\/vbd\/1\/51712$/);
      assert.equal(machine.reactor.mappedPages, 0);
      await front.write({ backend: backendPath(), state: "1" });
      await (await machine.connect(guest)).close();
    }),
  );
}

test(
  "backend-id is the guest's word, and nothing",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    await front.write({ ...(await front.ring()), "backend-id": "7", "virtual-device": "1" });
    await front.state(3);
    await machine.untilState(4);
    assert.equal(await machine.xenstore.directory("/local/domain/7"), null);
  }),
);

test(
  "keys of the frontend that look like the backend's are nothing (XSA-178)",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path, mode: "r" });
    const front = machine.front(guest);
    const secret = machine.image("secret.img");
    const lies = {
      params: secret,
      "physical-device-path": secret,
      mode: "w",
      "frontend-id": "0",
      online: "0",
    };
    await front.write({ ...(await front.ring()), ...lies });
    await front.state(3);
    await machine.untilState(4);
    assert.equal(machine.status()?.device, path);
    assert.equal(await machine.xenstore.read(`${backendPath()}/info`), "4");
    assert.equal(await guest.xenstore.read(`${frontendPath()}/mode`), "w");
  }),
);
