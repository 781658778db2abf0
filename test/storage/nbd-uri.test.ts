/** NBD URIs, as doc/uri.md of the protocol has them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isNbdUri, parseNbdUri } from "../../host/storage/nbd/uri.js";

test("URIs name a socket or a host, and an export", () => {
  const unix = (socket: string, exportName: string) => ({ socket, host: "", port: 0, exportName });
  const tcp = (host: string, port: number, exportName: string) => ({ socket: null, host, port, exportName });
  const good: [string, object][] = [
    ["nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")],
    ["nbd+unix://?socket=/run/a.sock", unix("/run/a.sock", "")],
    ["nbd+unix:///disk%20one?socket=/run/a%2Cb.sock", unix("/run/a,b.sock", "disk one")],
    ["nbd+unix:////dev/sda?x=1&socket=/s", unix("/s", "/dev/sda")],
    ["nbd://localhost", tcp("localhost", 10809, "")],
    ["nbd://", tcp("localhost", 10809, "")],
    ["nbd://example.org:10810/export", tcp("example.org", 10810, "export")],
    ["nbd://user@10.0.0.1:/e", tcp("10.0.0.1", 10809, "e")],
    ["nbd://[::1]:99/", tcp("::1", 99, "")],
    [
      "nbds://h/e?tls-certificates=/a%20b",
      { ...tcp("h", 10809, "e"), tls: { certificates: "/a b", hostname: "h" } },
    ],
    [
      "nbds+unix:///?socket=/s&tls-certificates=/a&tls-hostname=h",
      { ...unix("/s", ""), tls: { certificates: "/a", hostname: "h" } },
    ],
  ];
  for (const [uri, address] of good) {
    assert.ok(isNbdUri(uri));
    assert.deepEqual(parseNbdUri(uri), address, uri);
  }
});

test("wrong URIs say what would be right", () => {
  const bad: [string, RegExp][] = [
    ["nbd:unix:/run/a.sock", /is not an NBD URI: write nbd:\/\/HOST\/EXPORT or nbd\+unix/],
    ["nbds://localhost", /names no certificates: add \?tls-certificates= with the absolute path/],
    ["nbds+unix:///?socket=/a&tls-certificates=b", /names no certificates/],
    ["nbd://localhost/?tls-certificates=/a", /tls-certificates is for nbds/],
    ["nbd+unix:///", /names no socket: add \?socket= with an absolute path/],
    ["nbd+unix:///?socket=a.sock", /absolute path/],
    ["nbd+unix://host/?socket=/a", /has no host/],
    ["nbd+vsock://1:2", /nbd\+vsock is not known/],
    ["nbd://host:0/", /is not HOST or HOST:PORT/],
    ["nbd://host:70000/", /is not HOST or HOST:PORT/],
    ["nbd://a b:c:d/", /is not HOST or HOST:PORT/],
    ["nbd+unix:///%zz?socket=/a", /badly encoded/],
    [`nbd://h/${"a".repeat(4097)}`, /longer than 4096/],
  ];
  for (const [uri, pattern] of bad) assert.throws(() => parseNbdUri(uri), pattern, uri);
  for (const path of ["/dev/nbd0", "nbd0", "rbd:pool/image"]) assert.ok(!isNbdUri(path));
});
