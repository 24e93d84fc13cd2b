// Who gets in, and who does not: the person with the code, and not the page of a stranger.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { promisify } from "node:util";
import { EVIL, gatepost, invitation, logOut, rig, scenario } from "./browser.mjs";

await scenario(async (it) => {
  await it.step("a wrong code is refused and the page says what to do", async () => {
    const page = await it.visitor();
    await page.goto(`${rig.console}/settings`);
    await page.getByLabel("One-time code").fill("not-the-code");
    await it.expecting(/403/, () => page.getByRole("button", { name: "Log in" }).click());
    await page.getByRole("alert").getByText("gatepost console").waitFor();
    assert.deepEqual(await page.context().cookies(), []);
  });

  await it.step("the code of the command line opens the page that was asked for, once", async () => {
    const { searchParams } = await invitation();
    const page = it.page;
    await page.goto(`${rig.console}/settings`);
    await page.getByLabel("One-time code").fill(searchParams.get("code"));
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("heading", { name: "Settings", level: 1 }).waitFor();
    const [cookie, ...others] = await page.context().cookies();
    assert.equal(others.length, 0);
    assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.expires], [true, "Strict", -1]);
    const second = await it.visitor();
    await second.goto(`${rig.console}/login?code=${searchParams.get("code")}`);
    await it.expecting(/403/, () => second.getByRole("button", { name: "Log in" }).click());
    await second.context().close();
  });

  await it.step("a name that a stranger made lead here gets nothing", async () => {
    const rebound = rig.console.replace("127.0.0.1", EVIL);
    for (const path of ["/", "/login", "/api/v1/status", "/assets/style.css"]) {
      const answer = await it.page.goto(rebound + path);
      assert.equal(answer.status(), 421, path);
    }
    await it.page.goto(`${rig.console}/settings`);
  });

  await it.step("a form of another site changes nothing", () => foreignForms(it));

  await it.step("after logging out the back button shows nothing", async () => {
    const page = it.page;
    await page.goto(`${rig.console}/settings`);
    await logOut(page);
    await page.goBack();
    await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
    assert.equal(await page.getByText("In force").count(), 0);
    assert.deepEqual(await page.context().cookies(), []);
  });

  await it.step("a password opens the console, a wrong one does not", () => password(it));

  await it.step("all of it works without script", () => withoutScript(it));
});

/** A page of another site sends our forms: by itself, in a frame, and with `fetch`. */
async function foreignForms(it) {
  const before = await settingsOfPages(it);
  const server = createServer((asked, answer) => {
    const form = (target) => `<form method="post" action="${rig.console}/settings/log-out-all" target="${target}">
      <input name="confirmed" value="yes"><input name="csrf" value="${new URL(asked.url, "http://x").searchParams.get("csrf") ?? ""}">
      <button>Win a prize</button></form>`;
    const frame = `<iframe name="inside" src="${rig.console}/settings"></iframe>`;
    answer.setHeader("content-type", "text/html");
    answer.end(`<!doctype html><link rel="icon" href="data:,"><title>Prizes</title>${form("_top")}${frame}`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  // Another site altogether, and another port here: the same site, whose requests carry our cookie.
  for (const host of [EVIL, "127.0.0.1"]) {
    const origin = `http://${host}:${server.address().port}`;
    const page = await it.page.context().newPage();
    // May not be framed. A page has loaded before the browser says so of its frame.
    const refused = page.waitForEvent("framenavigated", (frame) => frame.url().startsWith("chrome-error:"));
    await page.goto(`${origin}/?csrf=${before}`);
    await refused;
    const posted = page.waitForResponse((answer) => answer.request().method() === "POST");
    const click = () => page.getByRole("button", { name: "Win a prize" }).click();
    if (host === EVIL) await click();
    else await it.expecting(/403/, click);
    // Without the cookie it is a stranger's form, and with it a foreign one.
    const answer = await posted;
    assert.equal(answer.status(), host === EVIL ? 303 : 403);
    if (host === EVIL) assert.equal(await answer.headerValue("location"), "/login");
    await page.close();
  }
  server.close();
  assert.equal(await settingsOfPages(it), before, "the session has not ended");
}

/** The token of the session, as the page has it: still the same when nothing has ended the session. */
async function settingsOfPages(it) {
  await it.page.goto(`${rig.console}/settings`);
  return it.page.locator("input[name=csrf]").first().inputValue();
}

/** The password of the configuration; whoever logged in by a code has to log in again. */
async function password(it) {
  const operator = await it.operator();
  const hash = await hashed("correct horse");
  const before = readFileSync(rig.config, "utf8");
  writeFileSync(rig.config, before.replace("[console]", `[console]\npassword_hash = "${hash}"`));
  await gatepost("reload");
  await operator.goto(`${rig.console}/`);
  const field = operator.getByLabel("Password");
  assert.equal(await field.getAttribute("type"), "password");
  assert.equal(await field.getAttribute("autocomplete"), "current-password");
  await field.fill("Correct horse");
  await it.expecting(/403/, () => operator.getByRole("button", { name: "Log in" }).click());
  await operator.getByRole("alert").waitFor();
  assert.equal(await field.inputValue(), "", "a password does not come back");
  await field.fill("correct horse");
  await operator.getByRole("button", { name: "Log in" }).click();
  await operator.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  await operator.context().close();
  writeFileSync(rig.config, before);
  await gatepost("reload");
}

async function hashed(password) {
  const hashing = promisify(execFile)(rig.gatepost, ["hash-password"]);
  hashing.child.stdin.end(password);
  return (await hashing).stdout.trim();
}

/** Log in, reload, read, be asked before something is destroyed, log out. */
async function withoutScript(it) {
  const page = await it.operator({ javaScriptEnabled: false });
  for (const link of await page.getByRole("navigation", { name: "Main" }).getByRole("link").all()) {
    const name = await link.textContent();
    await link.click();
    await page.getByRole("heading", { level: 1 }).waitFor();
    assert.ok((await page.title()).length > " · Gatepost".length, name);
  }
  await page.getByRole("button", { name: "Reload" }).click();
  await page.getByRole("status").waitFor();
  await page.getByRole("button", { name: "Log out everywhere" }).click();
  await page.getByRole("link", { name: "Cancel" }).click();
  await page.getByRole("heading", { name: "Settings", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Log out everywhere" }).click();
  await page.locator("main").getByRole("button").click();
  await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
  await page.context().close();
}
