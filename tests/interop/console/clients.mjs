// A device that is turned away is let in; a login and a key are shown once, and work.
import assert from "node:assert/strict";
import { eventually, rig, scenario, send } from "./browser.mjs";
import { look } from "./look.mjs";

await scenario(async (it) => {
  const page = await it.operator();
  const refused = (options) => send("too early", options).then(() => assert.fail("it was taken"), (error) => error.responseCode);

  await it.step("a device that is not allowed is seen, and let in", async () => {
    await page.goto(`${rig.console}/clients`);
    await look(page, "clients-empty");
    assert.equal(await refused(), 554);
    await page.getByText("What to do:").first().waitFor();
    await look(page, "clients-refused");
    await page.getByRole("link", { name: "Allow this device" }).click();
    assert.match(await page.getByLabel("Network").inputValue(), /^127\.0\.0\.1/);
    await page.getByRole("textbox", { name: /Who that is|Note/i }).fill("the <i>scanner</i>");
    await look(page, "clients-allow");
    await page.getByRole("button", { name: "Allow" }).click();
    await page.getByRole("status").waitFor();
    await page.getByText("the <i>scanner</i>").waitFor();
    await send("let in", { login: undefined }).then(() => assert.fail("without a login"), (error) => assert.equal(error.responseCode, 530));
  });

  await it.step("a login's password is shown once, and mail is sent with it", async () => {
    await page.goto(`${rig.console}/clients`);
    await page.getByRole("link", { name: "Add login" }).click();
    await page.getByLabel(/User name|^Name/).fill("scanner");
    await look(page, "clients-login");
    await page.getByRole("button", { name: "Add login" }).click();
    await page.getByText("Shown this once.").waitFor();
    const pass = await page.locator("#password").textContent();
    await look(page, "clients-password");
    assert.match(await send("by the scanner", { login: { user: "scanner", pass } }), /^250/);
    await page.getByRole("link", { name: "Done" }).click();
    await page.getByRole("row", { name: /scanner/ }).first().waitFor();
    assert.ok(!(await page.content()).includes(pass), "once");
    await page.goto(`${rig.console}/clients`);
    await page.getByRole("button", { name: "Disable scanner" }).click();
    await page.getByRole("button", { name: "Enable scanner" }).waitFor();
    assert.equal(await refused({ login: { user: "scanner", pass } }), 535);
    await page.getByRole("button", { name: "Enable scanner" }).click();
    await page.getByRole("button", { name: "New password for scanner" }).click();
    // It may ask first: the device then has the old one.
    const sure = page.locator("main").getByRole("button", { name: /password/i });
    await page.locator("#password").or(sure.first()).first().waitFor();
    if (await page.locator("#password").count() === 0) await sure.first().click();
    const renewed = await page.locator("#password").textContent();
    assert.equal(await refused({ login: { user: "scanner", pass } }), 535);
    assert.match(await send("again", { login: { user: "scanner", pass: renewed } }), /^250/);
    await page.goto(`${rig.console}/clients`);
    await look(page, "clients");
  });

  await it.step("an API key is shown once, works, and works no more", async () => {
    await page.goto(`${rig.console}/settings`);
    const section = page.getByRole("region", { name: "API keys" });
    await section.getByRole("textbox").fill("prometheus");
    await section.getByRole("button", { name: "Make a key" }).click();
    const key = await page.locator("#key").textContent();
    await look(page, "settings-key");
    const asked = () => fetch(`${rig.console}/api/v1/status`, { headers: { authorization: `Bearer ${key}` } });
    assert.equal((await asked()).status, 200);
    await page.getByRole("link", { name: "Done" }).click();
    assert.ok(!(await page.content()).includes(key), "once");
    await eventually("its use is shown", async () => {
      await page.reload();
      return await page.getByRole("row", { name: /prometheus/ }).getByText("never").count() === 0;
    });
    await page.getByRole("button", { name: "Remove prometheus" }).click();
    await page.locator("main").getByRole("button", { name: /Remove/ }).click();
    await page.getByRole("status").waitFor();
    assert.equal((await asked()).status, 401);
  });
});
