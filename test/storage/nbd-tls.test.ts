/** NBD servers that want TLS: qemu-nbd's, with certificates that the test makes. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openNbd } from "../../host/storage/helper/nbd.js";
import { absent } from "../support/programs.js";
import { until } from "../vbd/harness.js";
import { directory, fill, flush, gather, image, pattern, read, scatter, write } from "./helpers.js";

const MIB = 1 << 20;
const HOW = { timeout: 120_000, skip: absent("openssl", "qemu-nbd", "qemu-storage-daemon") };

/** An authority, and a server's and a client's certificate by it, as QEMU's programs name the files. */
function certificates(root: string, host = "localhost"): { server: string; client: string } {
  const [server, client] = [join(root, "server"), join(root, "client")];
  const openssl = (...args: string[]): void =>
    void execFileSync("openssl", args, { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...key,
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-days",
    "2",
    "-subj",
    "/CN=authority",
  );
  for (const [place, name] of [
    [server, "server"],
    [client, "client"],
  ]) {
    mkdirSync(place);
    const subject = name === "server" ? host : "guest";
    openssl(
      "req",
      ...key,
      "-keyout",
      `${place}/${name}-key.pem`,
      "-out",
      "request",
      "-subj",
      `/CN=${subject}`,
    );
    writeFileSync(join(root, "ext"), `subjectAltName=DNS:${subject}\nkeyUsage=digitalSignature\n`);
    openssl(
      ...["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
      ...["-out", `${place}/${name}-cert.pem`, "-days", "2", "-extfile", "ext"],
    );
    writeFileSync(`${place}/ca-cert.pem`, readFileSync(join(root, "ca.pem")));
    chmodSync(`${place}/${name}-key.pem`, 0o600);
  }
  return { server, client };
}

interface Served {
  readonly socket: string;
  readonly client: string;
  readonly disk: string;
}

async function serve(t: TestContext, host?: string): Promise<Served> {
  const root = directory(t);
  const { server, client } = certificates(root, host);
  const disk = image(t, 4 * MIB);
  const socket = join(root, "nbd.sock");
  const object = `tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=${server}`;
  const child = spawn(
    "qemu-nbd",
    ["--object", object, "--tls-creds", "tls", "-t", "-f", "raw", "-k", socket, disk],
    { stdio: "ignore" },
  );
  t.after(() => child.kill());
  await until("qemu-nbd listens", () => existsSync(socket));
  return { socket, client, disk };
}

const open = (uri: string): Promise<BlockDevice> => openNbd(uri, { readOnly: false, warn: () => {} });

test("a disk is written and read by TLS", HOW, async (t) => {
  const { socket, client, disk } = await serve(t);
  const device = await open(`nbds+unix:///?socket=${socket}&tls-certificates=${client}`);
  const data = pattern(MIB);
  assert.equal((await write(device, MIB, fill(scatter(MIB), data))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Success);
  const back = scatter(MIB);
  assert.equal((await read(device, MIB, back)).result, Result.Success);
  assert.deepEqual(gather(back), data);
  await device.close();
  assert.deepEqual(readFileSync(disk).subarray(MIB, 2 * MIB), data);
});

test("what is wrong with TLS is said in one line", HOW, async (t) => {
  const { socket, client } = await serve(t);
  const at = (place: string, more = ""): string =>
    `nbds+unix:///?socket=${socket}&tls-certificates=${place}${more}`;
  await assert.rejects(
    open(`nbd+unix:///?socket=${socket}`),
    /the server requires TLS: nbds:\/\/HOST\/EXPORT/,
  );
  await assert.rejects(open(at(`${client}x`)), /clientx\/ca-cert\.pem: no such file/);
  await assert.rejects(
    open(at(client, "&tls-hostname=other.example")),
    /TLS with the server fails: .*other\.example/,
  );
  chmodSync(join(client, "client-key.pem"), 0o604);
  await assert.rejects(open(at(client)), /client-key\.pem: holds a secret and is open to all users/);
  chmodSync(join(client, "client-key.pem"), 0o600);
  renameSync(join(client, "client-cert.pem"), join(client, "other-cert.pem"));
  await assert.rejects(
    open(at(client)),
    /TLS with the server fails: |closed the connection in the handshake/,
  );
  const strangers = certificates(directory(t));
  await assert.rejects(open(at(strangers.client)), /TLS with the server fails: /);
});

test("a server without TLS is not spoken to without it", HOW, async (t) => {
  const root = directory(t);
  const { client } = certificates(root);
  const socket = join(root, "nbd.sock");
  const child = spawn("qemu-nbd", ["-t", "-f", "raw", "-k", socket, image(t, MIB)], { stdio: "ignore" });
  t.after(() => child.kill());
  await until("qemu-nbd listens", () => existsSync(socket));
  await assert.rejects(
    open(`nbds+unix:///?socket=${socket}&tls-certificates=${client}`),
    /the server has no TLS/,
  );
});
