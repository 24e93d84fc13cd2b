// Without a mouse: from the address that was printed to a change, and out again.
import assert from "node:assert/strict";
import { invitation, rig, scenario } from "./browser.mjs";

await scenario(async (it) => {
  const page = await it.visitor();
  const press = (key) => page.keyboard.press(key);
  /** Tabs until this has the focus. */
  const tabTo = async (text) => {
    for (let at = 0; at < 40; at += 1) {
      await press("Tab");
      const here = await page.evaluate(() => {
        const { activeElement: element } = document;
        return (element.labels?.[0]?.textContent ?? element.textContent).trim();
      });
      if (here === text) return;
    }
    assert.fail(`Tab never came to ${text}`);
  };

  await it.step("logs in", async () => {
    const { searchParams } = await invitation();
    await page.goto(`${rig.console}/login`);
    await tabTo("One-time code");
    await page.keyboard.type(searchParams.get("code"));
    await press("Enter");
    await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  });

  await it.step("skips what is the same on every page", async () => {
    await press("Tab");
    const skip = page.getByRole("link", { name: "Skip to content" });
    assert.ok((await skip.boundingBox()).x >= 0, "is seen when it has the focus");
    await press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  });

  await it.step("goes by the menu and changes something", async () => {
    await page.goto(`${rig.console}/`);
    await tabTo("Settings");
    await press("Enter");
    await page.getByRole("heading", { name: "Settings", level: 1 }).waitFor();
    assert.equal(await page.getByRole("link", { name: "Settings", exact: true }).getAttribute("aria-current"), "page");
    await tabTo("Reload");
    await press("Enter");
    await page.getByRole("status").waitFor();
  });

  await it.step("is asked, says no, and logs out", async () => {
    await tabTo("Log out everywhere");
    await press("Enter");
    await page.getByRole("link", { name: "Cancel" }).waitFor();
    await tabTo("Cancel");
    await press("Enter");
    await page.getByRole("heading", { name: "Settings", level: 1 }).waitFor();
    await tabTo("Log out");
    await press("Space");
    await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
  });
});
