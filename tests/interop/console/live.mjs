// The overview tells what happens while a person looks at it, and the seed's promise of one look: is mail flowing?
import assert from "node:assert/strict";
import { api, logOut, rig, scenario, send } from "./browser.mjs";

await scenario(async (it) => {
  const page = await it.operator();
  const figure = (name) => page.locator(".card").filter({ has: page.getByRole("heading", { name, exact: true }) }).locator(".figure");

  await it.step("a delivered message is counted on the open page", async () => {
    await page.getByText("Mail is flowing.").waitFor();
    assert.equal(await figure("Delivered in the last hour").textContent(), "0");
    await page.evaluate(() => { window.isTheSamePage = true; });
    await send("counted");
    await figure("Delivered in the last hour").getByText("1", { exact: true }).waitFor();
    assert.ok(await page.locator("svg.chart rect").count() > 0, "the charts show it");
    assert.equal(await page.evaluate(() => window.isTheSamePage), true, "without a reload");
  });

  await it.step("what waits is counted, and why is said", async () => {
    await api("POST", "/accounts/alerts/hold");
    await send("waits");
    await figure("Waiting").getByText("1", { exact: true }).waitFor();
    await page.locator("#accounts").getByText("operator").waitFor();
    assert.equal(await page.getByText("Mail is flowing.").count(), 0);
    await api("POST", "/accounts/alerts/release");
    await figure("Delivered in the last hour").getByText("2", { exact: true }).waitFor();
    await page.getByText("Mail is flowing.").waitFor();
    assert.equal(await page.evaluate(() => window.isTheSamePage), true, "without a reload");
  });

  await it.step("a page whose session has ended asks for a login by itself", async () => {
    const second = await page.context().newPage();
    await second.goto(`${rig.console}/`);
    await logOut(second);
    await it.expecting(/401/, () => send("after the end"));
    await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
  });
});
