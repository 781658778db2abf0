/** What must not be in a text that is sent to others. */

const HIDDEN = "***";
/** As configurations, URIs and xenstore name them. */
const SECRET = "pass(?:word|wd|phrase)?|secret|token|credentials?|key";

/** `//user:password@` of a URI, and `password=…` of its parameters or of a configuration's line. */
const PATTERNS: readonly [RegExp, string][] = [
  [/(\/\/[^/\s"'@]*:)[^/\s"'@]+@/g, `$1${HIDDEN}@`],
  [
    new RegExp(`\\b((?:[\\w-]*[_-])?(?:${SECRET}))(\\s*=\\s*)("[^"]*"|'[^']*'|[^\\s"'&,]+)`, "gi"),
    `$1$2${HIDDEN}`,
  ],
];
const SECRET_KEY = new RegExp(`(?:^|[/_-])(?:${SECRET})$`, "i");

/** A value of JSON without its secrets. */
export function withoutSecrets(value: unknown, key = ""): unknown {
  if (typeof value === "string") {
    if (SECRET_KEY.test(key)) return HIDDEN;
    return PATTERNS.reduce((text, [pattern, to]) => text.replace(pattern, to), value);
  }
  if (Array.isArray(value)) return value.map((item) => withoutSecrets(item, key));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, withoutSecrets(item, name)]));
}
