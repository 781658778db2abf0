/** The links of Markdown documents that lead nowhere. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** Without what only looks like a link, as it is code. */
function prose(markdown: string): string {
  return markdown
    .replace(/^ *(```|~~~)[\s\S]*?^ *\1/gm, "")
    .replace(/(`+)[\s\S]*?\1/g, (code) => "x".repeat(code.length));
}

/** The anchors that GitHub and npm give to the headings of a document. */
function anchors(markdown: string): Set<string> {
  const headings = markdown.replace(/^ *(```|~~~)[\s\S]*?^ *\1/gm, "").matchAll(/^#+ +(.*)$/gm);
  const names = [...headings].map(([, heading]) =>
    heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, "")
      .replaceAll(" ", "-"),
  );
  return new Set(names);
}

/** The links of `documents`, which are paths below `root`, to files or headings that are not below it: "document: target". */
export function deadLinks(root: string, documents: readonly string[]): string[] {
  const dead: string[] = [];
  for (const document of documents) {
    const text = readFileSync(join(root, document), "utf8");
    const inline = prose(text).matchAll(
      /\]\(([^()\s]+)(?: "[^"]*")?\)|^\[[^\]]+\]: *(\S+)|(?:src|href)="([^"]+)"/gm,
    );
    for (const [, ...groups] of inline) {
      const target = groups.find((group) => group !== undefined) as string;
      if (/^[a-z]+:/.test(target)) continue;
      const [path, anchor] = target.split("#");
      const file = path === "" ? document : normalize(join(dirname(document), decodeURI(path)));
      const lost =
        file.startsWith("..") ||
        !existsSync(join(root, file)) ||
        (anchor !== undefined &&
          file.endsWith(".md") &&
          !anchors(readFileSync(join(root, file), "utf8")).has(anchor));
      if (lost) dead.push(`${document}: ${target}`);
    }
  }
  return dead;
}
