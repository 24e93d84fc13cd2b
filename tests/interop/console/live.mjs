// The overview tells what happens while a person looks at it, and the seed's promise of one look: is mail flowing?
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { api, gatepost, logOut, rig, scenario, send } from "./browser.mjs";

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

  await it.step("parts come and go: a warning, the last account, the first one", async () => {
    const before = readFileSync(rig.config, "utf8");
    const reload = async (config) => {
      writeFileSync(rig.config, config);
      await gatepost("reload");
    };
    // Others may stand beside it: what this machine and its configuration give cause for.
    const warning = page.locator("#warnings").getByText("in clear");
    assert.equal(await warning.count(), 0);
    const inClear = `auth = "optional"\nauth_without_tls = "always"\nproxy_protocol_from = ["10.0.0.1"]\nallow = ["127.0.0.0/8"]`;
    await reload(before.replace(`auth = "none"`, inClear));
    await warning.waitFor();
    await reload(before.slice(0, before.indexOf("[account.alerts]")));
    await page.getByRole("heading", { name: "Begin here" }).waitFor();
    await page.locator("#accounts").waitFor({ state: "detached" });
    await reload(before);
    await page.locator("#accounts").getByRole("link", { name: "alerts" }).waitFor();
    assert.equal(await page.getByRole("heading", { name: "Begin here" }).or(warning).count(), 0);
    assert.equal(await page.evaluate(() => window.isTheSamePage), true, "without a reload");
  });

  await it.step("a page that hears nothing says so, until it does", async () => {
    const isNews = (request) => request.url().endsWith("/events") || request.headers()["x-live"] !== undefined;
    const cut = (route) => (isNews(route.request()) ? route.abort() : route.continue());
    await it.expecting(/ERR_FAILED/, async () => {
      await page.route("**/*", cut);
      await page.goto(`${rig.console}/`);
      await page.getByRole("alert").getByText("No connection to Gatepost").waitFor();
      await page.unroute("**/*", cut);
      await page.getByText("No connection to Gatepost").waitFor({ state: "detached" });
    });
  });

  await it.step("what a person has in hand stays theirs", () => inHand(page));

  await it.step("a page whose session has ended asks for a login by itself", async () => {
    const second = await page.context().newPage();
    await second.goto(`${rig.console}/`);
    // News of before may make the page ask as soon as the session ends; if not, the last message does. It may be
    // told twice: as it listens and as it looks.
    await it.expecting(/401/, async () => {
      await logOut(second);
      await send("after the end");
      await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
    });
  });
});

/** Focus, ticks, what is opened and where one has scrolled to, on pages that renew themselves. */
async function inHand(page) {
  const isFocused = (link) => link.evaluate((element) => element === document.activeElement);
  for (const path of ["/", "/accounts"]) {
    await page.goto(rig.console + path);
    const account = page.locator("main").getByRole("link", { name: "alerts", exact: true });
    await account.focus();
    await api("POST", "/accounts/alerts/hold");
    await page.locator("#accounts").getByText("on hold").waitFor();
    assert.ok(await isFocused(account), `${path}: the focus stays`);
    await api("POST", "/accounts/alerts/release");
    await page.locator("#accounts").getByText("ready").waitFor();
    assert.ok(await isFocused(account), `${path}: the focus stays`);
  }
  // Whoever presses a key when a button has gone must not press another one.
  await page.goto(`${rig.console}/accounts/alerts`);
  await page.getByRole("button", { name: "Put on hold" }).focus();
  await api("POST", "/accounts/alerts/hold");
  await page.getByRole("button", { name: "Release" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "BODY", "the focus goes with its button");
  await page.goto(`${rig.console}/queue`);
  await page.getByText("The queue is empty").waitFor();
  assert.equal(await page.getByRole("button", { name: "Hold" }).count(), 0, "with nothing to do it to");
  await send("the first");
  await page.getByRole("button", { name: "Hold" }).waitFor();
  for (let at = 0; at < 12; at += 1) await send(`number ${at}`);
  await page.getByText("when account alerts is released").first().waitFor();
  const rows = page.locator("tbody tr");
  const newest = async () => (await api("GET", "/queue")).entries.at(-1).id;
  await page.getByRole("link", { name: await newest() }).waitFor();
  await rows.nth(1).getByRole("checkbox").check();
  await page.getByText("What these do").click();
  const link = rows.nth(9).getByRole("link");
  const id = await link.textContent();
  await link.focus();
  const top = () => page.getByRole("link", { name: id }).evaluate((element) => element.getBoundingClientRect().top);
  const before = await top();
  await send("comes meanwhile");
  await page.getByRole("link", { name: await newest() }).waitFor();
  const [first] = (await api("GET", "/queue")).entries;
  assert.equal(await top(), before, "nothing moves under the eyes");
  await api("POST", "/queue/delete", { ids: [first.id] });
  await page.getByRole("link", { name: first.id }).waitFor({ state: "detached" });
  assert.ok(await isFocused(page.getByRole("link", { name: id })), "the focus stays");
  assert.ok(await rows.first().getByRole("checkbox").isChecked(), "what is ticked stays so");
  assert.ok(await page.locator("#bulk-help").evaluate((details) => details.open), "what is opened stays so");
  await api("POST", "/queue/delete", { all: true });
  await page.getByRole("button", { name: "Hold" }).waitFor({ state: "detached" });
  await api("POST", "/accounts/alerts/release");
}
