// Every page there is, in one place: what the menu leads to and whatever those pages link, one of each kind.
// A new page is covered once something links to it.
import assert from "node:assert/strict";
import { rig } from "./browser.mjs";

/** More kinds of pages than this are a link that is never the same twice. */
const PAGES_MAX = 60;

/** Pages that nothing links: what a stale link leads to. */
const UNLINKED = ["/nothing"];

/** Visits each page; `visit(name)` looks at it. The names of all. */
export async function everyPage(it, page, visit) {
  for (const path of UNLINKED) {
    await it.expecting(/404/, () => page.goto(new URL(path, rig.console).href));
    await visit(kind(path));
  }
  const seen = new Set(UNLINKED.map(kind)), waiting = ["/"];
  while (waiting.length > 0) {
    const path = waiting.shift(), name = kind(path);
    if (seen.has(name)) continue;
    seen.add(name);
    assert.ok(seen.size <= PAGES_MAX, `too many pages: ${[...seen].join(" ")}`);
    await page.goto(new URL(path, rig.console).href);
    await visit(name);
    waiting.push(...await page.evaluate(() => {
      const links = [...document.querySelectorAll("a[href]:not([download])")].map((link) => new URL(link.href));
      const isPage = (url) => url.origin === location.origin && !url.pathname.startsWith("/api/");
      return links.filter(isPage).map((url) => url.pathname + url.search);
    }));
  }
  return seen;
}

/** `/queue/0192ab?page=2` and `/queue/0192cd?page=3` are one kind of page; so are those of two accounts. */
function kind(path) {
  const url = new URL(path, rig.console);
  const names = rig.names ?? [];
  const parts = url.pathname.split("/").filter(Boolean).map(decodeURIComponent);
  const kinds = parts.map((part) => (/\d/.test(part) || names.includes(part) ? "one" : part));
  // A choice among a few words makes another page, a position in a list does not.
  const isChoice = (value) => /^[a-z_]{1,20}$/.test(value) && !names.includes(value);
  const asked = [...url.searchParams].map(([key, value]) => (isChoice(value) ? value : key)).sort();
  return [kinds.join("-") || "overview", ...asked].join("_");
}
