// What every page must be, whoever comes to it: told by axe-core, measured, and kept as a picture.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { SCHEMES, WIDTHS, rig } from "./browser.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Looks at the page as it stands, in both widths and both schemes; `name` is the name of its pictures. */
export async function look(page, name) {
  const found = [];
  await page.evaluate(() => document.activeElement?.blur());
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 900 });
    for (const colorScheme of SCHEMES) {
      await page.emulateMedia({ colorScheme });
      const where = `${name} at ${width} px, ${colorScheme}`;
      found.push(...await overflow(page, where), ...await axe(page, where));
      await page.screenshot({ path: join(rig.artefacts, `${name}-${width}-${colorScheme}.png`), fullPage: true });
    }
  }
  await page.setViewportSize({ width: WIDTHS[0], height: 900 });
  await page.emulateMedia({ colorScheme: SCHEMES[0] });
  assert.deepEqual(found, [], `${name} (${page.url()})`);
}

/** What makes the page wider than the window. */
async function overflow(page, where) {
  const wide = await page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return [];
    const beyond = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > clientWidth + 1);
    return [`${scrollWidth} px`, ...beyond.slice(0, 5).map((e) => e.outerHTML.slice(0, 150))];
  });
  return wide.length === 0 ? [] : [`${where}: scrolls sideways: ${wide.join(" | ")}`];
}

/** What axe-core calls serious or critical. */
async function axe(page, where) {
  if (!await page.evaluate(() => "axe" in window)) await page.evaluate(AXE);
  const violations = await page.evaluate(async () => (await axe.run()).violations);
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, help, nodes }) => `${where}: ${id} (${help}): ${nodes.slice(0, 3).map((n) => `${n.html} ${n.failureSummary}`).join(" | ")}`);
}

/** Tabs through the page: everything that can be operated is reached in order, and is seen when it is. */
export async function tabThrough(page, name) {
  const wanted = await page.evaluate(() => {
    const operable = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
    const reachable = operable.filter((e) => e.checkVisibility() && e.type !== "hidden" && !e.disabled)
      // Of radio buttons with one name Tab reaches the chosen one; arrows lead to the others.
      .filter((e) => e.type !== "radio" || e.checked);
    reachable.forEach((e, at) => { e.dataset.tabAt = at; });
    document.activeElement.blur();
    document.body.focus();
    return reachable.length;
  });
  const reached = [], unseen = [];
  // A field for a moment has a stop for each of its parts, the last of which shows its focus by itself.
  for (let at = 0; at < wanted * 8 && reached.at(-1) !== wanted - 1; at += 1) {
    await page.keyboard.press("Tab");
    const { index, html, isSeen } = await page.evaluate(focused);
    if (index !== reached.at(-1)) {
      reached.push(index);
      if (!isSeen) unseen.push(html);
    }
  }
  assert.deepEqual(unseen, [], `${name}: focus is not seen there`);
  assert.deepEqual(reached, Array.from({ length: wanted }, (_, at) => at), `${name}: Tab goes in another order`);
}

/** In the page: what has the focus, and whether a person sees that it does. */
function focused() {
  const element = document.activeElement;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  const hasMark = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) || style.boxShadow !== "none";
  const isInside = box.width > 0 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
  return { index: Number(element.dataset.tabAt ?? -1), html: element.outerHTML.slice(0, 200), isSeen: hasMark && isInside };
}
