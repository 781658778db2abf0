/**
 * What our texts do not say, and what an engineer expects in its place. Each pattern is looked for, whatever the case of
 * letters, in documents, man pages, help, and the messages of the program and its page (test/tidy/texts.ts).
 * CONTRIBUTING.md has the glossary that this list guards.
 */
export interface BannedWord {
  readonly pattern: RegExp;
  readonly say: string;
}

export const BANNED: readonly BannedWord[] = [
  { pattern: /\bstores?\b(?! (to|into|a request|of 64 bits|each|the))/i, say: "image, disk or device" },
  { pattern: /\bat work\b/i, say: "active, running or connected" },
  { pattern: /\b(let|lets|letting) go\b|\bhas let go\b/i, say: "release, releases or closes" },
  { pattern: /\bgo(es)? on with\b|\bgone on with\b|\bwent on with\b/i, say: "resume, resumes or continues" },
  { pattern: /\bbegun anew\b|\bstarted anew\b|\battached anew\b|\bbegin anew\b/i, say: "restarted, again" },
  { pattern: /\bto be had\b/i, say: "available" },
  { pattern: /\bin (the )?place of\b/i, say: "instead of; or replaces" },
  {
    pattern:
      /\b(is|are|was) no (absolute|vbd|such|image|block|raw|disk|number|valid|domain|NBD|socket|file|regular)\b/i,
    say: "is not an X",
  },
  { pattern: /\bthe Xen below\b/i, say: "Xen" },
  { pattern: /\bwill never do\b/i, say: "is not supported; or cannot be served" },
  { pattern: /\brubbish\b/i, say: "protocol error; malformed reply" },
  { pattern: /\b(anew|afresh)\b/i, say: "again; or restarted" },
  { pattern: /\bunder way\b/i, say: "in flight" },
  { pattern: /\b(nobody|somebody)\b/i, say: "no process, no user; another process" },
  { pattern: /\bstanding\b/i, say: "status" },
  { pattern: /\bspeaks?\b|\bspoken\b/i, say: "supports, uses; a protocol error" },
  { pattern: /\b(process|daemon) before\b/i, say: "the previous process or daemon" },
  { pattern: /\bmakes? no sense\b/i, say: "inconsistent, invalid" },
  { pattern: /\bwithout a word\b|\bsays? nothing of\b/i, say: "without any output" },
  { pattern: /\bsomebody else\b|\bnobody else\b/i, say: "another process; no other process" },
  { pattern: /\bso many in a hundred\b|\bin a hundred\b/i, say: "N percent" },
  { pattern: /\bso many (times|seconds|operations|requests|vbds|bytes)\b/i, say: "N times, N seconds" },
  { pattern: /\b(of )?(theirs|ours)\b/i, say: "name the owner: the guest's, the daemon's" },
  { pattern: /\bhas it\b/i, say: "uses it; or owns it" },
  { pattern: /\bwhatever becomes of\b/i, say: "even if X ends" },
  { pattern: /\blooks? afresh\b|\bread afresh\b/i, say: "reads again" },
  { pattern: /\bnothing there\b|\bis nothing here\b/i, say: "not found" },
  { pattern: /\bdoes not say whether\b/i, say: "no answer from X" },
  { pattern: /\bmore like it\b/i, say: "N similar messages suppressed" },
  { pattern: /\ba guest's death\b/i, say: "a guest that ends; when a guest dies" },
  { pattern: /\bsay how\b|\bsay why\b(?! not)/i, say: "state the reason" },
];
