/** xl's disk syntax, and virtual-device numbers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type DiskSpecification,
  DiskSyntaxError,
  parseDisk,
} from "../../host/toolstack/disk-specification.js";
import { parseVirtualDevice, virtualDeviceName } from "../../host/vbd/virtual-device.js";

const PLAIN: DiskSpecification = {
  target: "/disk.img",
  format: "raw",
  vdev: "xvda",
  devid: 51712,
  readOnly: false,
  cdrom: false,
  backend: null,
  backendType: null,
  script: null,
  directIoSafe: false,
  discard: null,
  trusted: true,
  specification: "xen",
  colo: false,
};

/** The manual's examples among them. */
const GOOD: readonly (readonly [string, Partial<DiskSpecification>])[] = [
  ["/disk.img,raw,xvda,rw", {}],
  ["/disk.img,,xvda", {}],
  ["/disk.img,raw,xvda,", {}],
  ["format=raw, vdev=xvda, access=rw, target=/disk.img", {}],
  ["raw:/disk.img,xvda,w", {}],
  ["phy:/disk.img,xvda,w", {}],
  ["vdev=xvda,/disk.img,raw,ro", { readOnly: true }],
  ["  /disk.img,\t,\n xvda, r", { readOnly: true }],
  ["vg/guest-volume,,xvda", { target: "/dev/vg/guest-volume" }],
  ["vdev=xvda,target=/a, b=c,d", { target: "/a, b=c,d" }],
  ["/image.iso,,hdc,cdrom", { target: "/image.iso", vdev: "hdc", devid: 5632, readOnly: true, cdrom: true }],
  [",,hdc,,cdrom", { target: "", format: "empty", vdev: "hdc", devid: 5632, readOnly: true, cdrom: true }],
  [",hdc:cdrom,r", { target: "", format: "empty", vdev: "hdc", devid: 5632, readOnly: true, cdrom: true }],
  ["/disk.img,qcow2,xvda", { format: "qcow2" }],
  ["qcow2:/disk.img,xvda,w", { format: "qcow2" }],
  ["vmdk:/disk.img,xvda,w", { format: "vmdk" }],
  ["vdi:/disk.img,xvda,w", { format: "vdi" }],
  ["vdev=xvda,target=vhdx:/disk.img", { format: "vhdx" }],
  ["format=vhd,vdev=xvda,target=vhd:/disk.img", { format: "vhd" }],
  ["nbd+unix:///a?socket=/s,,xvda", { target: "nbd+unix:///a?socket=/s" }],
  ["vdev=xvda,target=nbd://h/a,b", { target: "nbd://h/a,b" }],
  ["https://h/disk.img?a=b,raw,xvda,ro", { target: "https://h/disk.img?a=b", readOnly: true }],
  ["rbd:pool/image,,xvda", { target: "rbd:pool/image" }],
  [
    "/disk.img,raw,xvda,w,backend=storage,backendtype=tap,script=block-own,direct-io-safe,no-discard,untrusted",
    {
      backend: "storage",
      backendType: "tap",
      script: "block-own",
      directIoSafe: true,
      discard: false,
      trusted: false,
    },
  ],
  [",raw,xvda,target=/disk.img", {}],
  ["/disk.img,raw,0145000", { vdev: "0145000" }],
  ["tap2:aio:/disk.img,xvda", {}],
  ["drbd:resource,xvda,w", { target: "resource", script: "block-drbd" }],
  ["phy:iscsi:target,xvda,w", { target: "target", script: "block-iscsi" }],
  ["no-colo,/disk.img,raw,xvda,grant_usage=1", {}],
  ["/disk.img,raw,xvda,rw,colo,colo-host=h,colo-port=7,active-disk=/a,hidden-disk=/b", { colo: true }],
  ["/disk.img,,xvda,discard,specification=virtio", { discard: true, specification: "virtio" }],
];

for (const [text, differences] of GOOD) {
  test(`"${text}"`, () => {
    const expected = { ...PLAIN, ...differences };
    assert.deepEqual(parseDisk(text), expected);
  });
}

const BAD: readonly (readonly [string, RegExp])[] = [
  ["", /^missing vdev=.*vdev=xvda/],
  [
    "format=qcow2,vdev=xvda,target=vhd:/disk.img",
    /^format is qcow2, but the target has vhd: leave one of them out/,
  ],
  ["/disk.img", /^missing vdev=/],
  [",raw,xvda", /^missing target=/],
  ["/disk.img,raw,nonsense", /^vdev "nonsense" is not a virtual device: name one like xvda/],
  ["/disk.img,dmg,xvda", /^unknown value "dmg" for format: it is one of raw, qcow, /],
  ["/disk.img,raw,xvda,x", /^unknown value "x" for access: it is one of rw, w, ro, r$/],
  ["/disk.img,raw,xvda,rw,more", /^"more" is superfluous/],
  ["/disk.img,raw,xvda,format=raw", /^format is given twice/],
  ["/disk.img,raw,xvda,discard,no-discard", /^discard is given twice/],
  ["/disk.img,raw,vdev=xvda,target=/other", /^target is given twice/],
  ["/disk.img,raw,xvda,colour=red", /^unknown parameter "colour": there are target, format, /],
  ["/disk.img,constructor,xvda", /^unknown value "constructor" for format/],
  ["/disk.img,raw,xvda,toString=1", /^"toString=1" is not possible here|^unknown parameter/],
  ["/a=b,raw,xvda", /^"\/a=b" is not possible here: .*target=PATH/],
  ["/disk.img,raw,2147483648", /^vdev "2147483648" is not a virtual device/],
  ["/disk.img,raw,08", /^vdev "08" is not a virtual device/],
  ["/disk.img,raw,xvda,backendtype=", /^backendtype has no value$/],
  ["/disk.img,raw,xvda,colo-port=x", /^colo-port is "x", not a number$/],
  [
    "read-only:/disk.img,raw,xvda",
    /^unknown target type "read-only": there are .*readonly, .*is \/dev\/read-only:/,
  ],
  ["vdev=xvda,target=dealy:ms=10:/disk.img", /^unknown target type "dealy"/],
  ["vdev=xvda,target=readonly:lmit:/disk.img", /^unknown target type "lmit"/],
  ["/disk\ufffd.img,raw,xvda", /is not UTF-8: give the file another name/],
  ["/disk.img,\u001b[2J,xvda", /^unknown value "\\u001b\[2J" for format/],
];

for (const [text, pattern] of BAD) {
  test(`${JSON.stringify(text)} is refused`, () => {
    assert.throws(
      () => parseDisk(text),
      (error: Error) => {
        assert.ok(error instanceof DiskSyntaxError);
        assert.match(error.message, pattern);
        return true;
      },
    );
  });
}

test("virtual-device numbers are those of xen-vbd-interface(7)", () => {
  const numbers: readonly (readonly [string, number])[] = [
    ["xvda", 51712],
    ["xvda15", 51727],
    ["xvdb", 51728],
    ["xvdp", 51952],
    ["xvda16", 0x10000010],
    ["xvdq", 0x10001000],
    ["xvdaa", 0x10001a00],
    ["hda", 768],
    ["hdb1", 833],
    ["hdd", 5696],
    ["sda", 2048],
    ["sdp15", 2303],
  ];
  for (const [name, number] of numbers) {
    assert.equal(parseVirtualDevice(name), number, name);
    assert.equal(virtualDeviceName(number), name);
  }
  assert.equal(parseVirtualDevice("d0p1"), 51713);
  assert.equal(parseVirtualDevice("d536p37"), 0x10021825);
  assert.equal(parseVirtualDevice("51712"), 51712);
  assert.equal(parseVirtualDevice("0xca00"), 51712);
  assert.equal(parseVirtualDevice("0145000"), 51712);
  assert.equal(parseVirtualDevice("0"), 0);
  assert.equal(parseVirtualDevice("2147483647"), 2147483647);
  for (const none of [
    "",
    "xvd",
    "xvda01",
    "xvda0",
    "hde",
    "hda64",
    "sdq",
    "xvda256",
    "xvdzzzzzz",
    "08",
    "2147483648",
    "4294967296",
    "vda",
  ]) {
    assert.equal(parseVirtualDevice(none), null, none);
  }
  assert.equal(virtualDeviceName(1), null);
  assert.equal(virtualDeviceName(768 + 128), null);
});
