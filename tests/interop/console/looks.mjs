// Every page there is: for eyes, for screen readers, for keyboards, at a desk and on a phone.
import assert from "node:assert/strict";
import { api, eventually, rig, scenario, send } from "./browser.mjs";
import { look, tabThrough } from "./look.mjs";
import { everyPage } from "./pages.mjs";

await scenario(async (it) => {
  await it.step("the login", async () => {
    const page = await it.visitor();
    await page.goto(`${rig.console}/login`);
    await look(page, "login");
    await page.getByLabel("One-time code").fill("wrong");
    await it.expecting(/403/, () => page.keyboard.press("Enter"));
    await page.getByRole("alert").waitFor();
    await look(page, "login-wrong");
    await page.context().close();
  });

  const page = await it.operator();
  await it.step("there is something to look at", furnish);
  const seen = await everyPage(it, page, async (name) => {
    await it.step(name, async () => {
      await headings(page, name);
      await tabThrough(page, name);
      await look(page, name);
    });
  });

  await it.step("dark is dark", async () => {
    await page.goto(`${rig.console}/`);
    const brightness = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).reduce((sum, c) => sum + Number(c), 0));
    await page.emulateMedia({ colorScheme: "dark" });
    const dark = await brightness();
    await page.emulateMedia({ colorScheme: "light" });
    assert.ok(dark < 150 && await brightness() > 600);
  });

  await it.step("the menu leads everywhere", async () => {
    const menu = await page.getByRole("navigation", { name: "Main" }).getByRole("link").allTextContents();
    for (const entry of menu) assert.ok([...seen].some((name) => name === entry.toLowerCase()), `${entry}: ${[...seen]}`);
  });
});

/** One h1, no level left out; what the title says is what the page says. */
async function headings(page, name) {
  const levels = await page.evaluate(() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
    .filter((heading) => heading.checkVisibility()).map((heading) => Number(heading.tagName[1])));
  assert.equal(levels.filter((level) => level === 1).length, 1, `${name}: one h1: ${levels}`);
  levels.reduce((above, level) => {
    assert.ok(level <= above + 1, `${name}: a level of headings is left out: ${levels}`);
    return level;
  }, 0);
}

/** A bit of everything, with words that are too long for a phone. */
async function furnish() {
  const long = `${"a-very-long-name-of-a-device-".repeat(2)}x`;
  const account = await api("GET", "/account-settings");
  const { smtp } = account.find(({ name }) => name === "alerts").settings;
  await api("PUT", "/accounts/smarthost", { mailbox: "smarthost@example.test", smtp });
  await api("POST", "/logins", { name: long, account: "smarthost", senders: ["*@example.test", "root@other.test"] });
  await api("POST", "/keys", { name: long.slice(0, 60) });
  await api("POST", "/allowed", { network: "fd00:1234:5678:9abc:def0:1234:5678:0/112", note: "the scanner on the second floor" });
  await send("delivered");
  await eventually("it is delivered", async () => (await api("GET", "/queue")).entries.length === 0);
  await api("POST", "/accounts/alerts/hold");
  await send(`waits ${"without-a-blank".repeat(12)}`, { from: `${long}@example.test`, to: `${long}@example.org` });
  const [{ id }] = (await api("GET", "/queue")).entries;
  await api("POST", "/queue/hold", { ids: [id] });
  await send("waits as well");
}
