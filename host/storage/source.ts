/** What a target names: a disk specification's, or `params` in xenstore. */
import { type ModuleSource, parseModuleTarget } from "./module/open.js";
import { isNbdUri } from "./nbd/uri.js";
import { parseWrapped, type Wrapped } from "./wrapper/index.js";

/** Image formats by the names that xl and people use, and QEMU's names for them. */
export const IMAGE_FORMATS: Readonly<Record<string, string>> = {
  qcow: "qcow",
  qcow2: "qcow2",
  vhd: "vpc",
  vhdx: "vhdx",
  vmdk: "vmdk",
  vdi: "vdi",
  qed: "qed",
  luks: "luks",
};

export type Source =
  /** A raw image or block device. */
  | { readonly kind: "raw"; readonly path: string }
  | { readonly kind: "nbd"; readonly uri: string }
  /** `path` is the server's socket. */
  | { readonly kind: "vhost-user"; readonly path: string }
  /** `format` is a key of {@link IMAGE_FORMATS}. */
  | { readonly kind: "image"; readonly format: string; readonly path: string }
  | { readonly kind: "rbd"; readonly pool: string; readonly namespace: string; readonly image: string }
  | { readonly kind: "http"; readonly url: string }
  | ModuleSource
  /** Of the wrapper's argument and the target below, nothing is known yet. */
  | Wrapped;

/** Null for what is no target: relative paths, other schemes. */
export function parseSource(text: string): Source | null {
  if (text.startsWith("/")) return { kind: "raw", path: text };
  if (isNbdUri(text)) return { kind: "nbd", uri: text };
  if (/^https?:\/\/./.test(text)) return { kind: "http", url: text };
  const rbd = /^rbd:([^/:@,]+)\/(?:([^/:@,]+)\/)?([^/:,]+)$/.exec(text);
  if (rbd) return { kind: "rbd", pool: rbd[1], namespace: rbd[2] ?? "", image: rbd[3] };
  const vhost = /^vhost-user:(\/.*)$/s.exec(text);
  if (vhost) return { kind: "vhost-user", path: vhost[1] };
  const image = /^([a-z0-9]+):(\/.*)$/s.exec(text);
  if (image && Object.hasOwn(IMAGE_FORMATS, image[1]))
    return { kind: "image", format: image[1], path: image[2] };
  return parseModuleTarget(text) ?? parseWrapped(text);
}
