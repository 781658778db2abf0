/** Asks a C compiler for the wire structures, and compares with the guest's numbers, the core's, and layouts.md. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { LAYOUTS, Response, SEGMENT_BYTES, Sring } from "../../host/guest/layout.js";
import { cannotCompile, compile } from "./compiler.js";
import { DIRECTORY, hexBytes, parseVectors, readDocument, statements } from "./document.js";

/** Bytes of a `struct offset` and of a `struct named_request` in layout.c. */
const OFFSET_BYTES = 48;
const SAMPLE_BYTES = 128;
const SAMPLE_NAME_BYTES = 16;

interface Compiled {
  offsets: Map<string, number>;
  /** The bytes of a request by the name of its operation. */
  samples: Map<string, Buffer>;
}

function name(bytes: Buffer): string {
  return bytes.toString("latin1", 0, bytes.indexOf(0));
}

function records(section: Buffer, bytes: number): Buffer[] {
  assert.equal(section.length % bytes, 0);
  return Array.from({ length: section.length / bytes }, (_, i) =>
    section.subarray(i * bytes, (i + 1) * bytes),
  );
}

function compileLayouts(machine: string): Compiled {
  const [offsets, samples] = compile(join(DIRECTORY, "layout.c"), [machine], [".offsets", ".samples"]);
  return {
    offsets: new Map(
      records(offsets, OFFSET_BYTES).map((r) => [name(r), r.readUInt32LE(OFFSET_BYTES - 4)] as const),
    ),
    samples: new Map(
      records(samples, SAMPLE_BYTES).map((r) => [name(r), r.subarray(SAMPLE_NAME_BYTES)] as const),
    ),
  };
}

/** The bytes of the request in a vector of layouts.md. */
function documentedRequest(title: string): Buffer {
  const vector = parseVectors("layouts.md", readDocument("layouts.md")).find((v) => v.title === title);
  const ring = vector?.blocks.find((block) => block.kind === "ring");
  assert.ok(ring, `layouts.md has no vector "${title}"`);
  return Buffer.from(statements(ring).flatMap(({ words }) => hexBytes(words) ?? []));
}

for (const [machine, layout] of [
  ["-m64", "x86_64"],
  ["-m32", "x86_32"],
] as const) {
  const skip = cannotCompile(machine);

  test(`a C compiler's offsets are ours, ${layout}`, { skip }, () => {
    const { offsets } = compileLayouts(machine);
    const is = (expected: Record<string, number>): void => {
      for (const [field, value] of Object.entries(expected)) assert.equal(offsets.get(field), value, field);
    };
    const guest = LAYOUTS[layout];
    is({ entry: guest.stride, "request.id": guest.id, "request.sector_number": guest.sectorNumber });
    is({ "request.seg": guest.segments, "discard.nr_sectors": guest.discardSectors });
    is({ "discard.id": guest.id, "discard.sector_number": guest.sectorNumber });
    is({ "indirect.id": guest.id, "indirect.sector_number": guest.sectorNumber });
    is({ "indirect.handle": guest.indirectHandle, "indirect.indirect_grefs": guest.indirectRefs });
    is({ "request.nr_segments": 1, "discard.flag": 1, "indirect.indirect_op": 1, "indirect.nr_segments": 2 });
    is({ segment: SEGMENT_BYTES, "segment.gref": 0, "segment.first_sect": 4, "segment.last_sect": 5 });
    is({ "sring.req_prod": Sring.reqProd, "sring.req_event": Sring.reqEvent, "sring.ring": Sring.entries });
    is({ "sring.rsp_prod": Sring.rspProd, "sring.rsp_event": Sring.rspEvent });
    is({ "response.id": Response.idLow, "response.operation": Response.operation });
    is({ "response.status": Response.status, response: layout === "x86_64" ? 16 : 12 });
  });

  test(`a C compiler's requests are those of layouts.md, ${layout}`, { skip }, () => {
    const { samples } = compileLayouts(machine);
    assert.equal(samples.size, 6);
    for (const [operation, bytes] of samples) {
      const documented = documentedRequest(`${operation}, ${layout}-abi`);
      assert.ok(documented.length >= 20, operation);
      assert.deepEqual(bytes.subarray(0, documented.length), documented, operation);
    }
  });
}

test("the core's grant copies are gntdev's", { skip: cannotCompile("-m64") }, () => {
  const { offsets } = compileLayouts("-m64");
  const expected = {
    "grant_copy.source": abi.COPY_SOURCE,
    "grant_copy.dest": abi.COPY_DEST,
    "grant_copy.len": abi.COPY_LENGTH,
    "grant_copy.flags": abi.COPY_FLAGS,
    "grant_copy.status": abi.COPY_STATUS,
    grant_copy: abi.COPY_BYTES,
    "sring.req_prod": abi.SRING_REQ_PROD - abi.SRING,
    "sring.req_event": abi.SRING_REQ_EVENT - abi.SRING,
    "sring.rsp_prod": abi.SRING_RSP_PROD - abi.SRING,
    "sring.rsp_event": abi.SRING_RSP_EVENT - abi.SRING,
    "sring.ring": abi.SRING_ENTRIES - abi.SRING,
    segment: abi.SEGMENT_BYTES,
  };
  for (const [field, value] of Object.entries(expected)) assert.equal(offsets.get(field), value, field);
});
