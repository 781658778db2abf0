/** What the package says of itself. */
import { readFileSync } from "node:fs";

const { version, description } = JSON.parse(
  readFileSync(new URL("../../../package.json", import.meta.url), "utf8"),
);

export const VERSION: string = version;
export const DESCRIPTION: string = description;
