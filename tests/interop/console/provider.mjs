// The seed's flow: Settings, Add OAuth provider, Save, the provider's sign-in; and what must hold around it.
// rig.form: what a person copies from the provider, by the labels of our form. rig.mailbox: who signs in.
import assert from "node:assert/strict";
import { api, eventually, rig, scenario, send } from "./browser.mjs";
import { decide, enterCode } from "./consent.mjs";
import { look } from "./look.mjs";

const WRONG_SECRET = "not-the-right-one-at-all";

await scenario(async (it) => {
  const page = await it.operator();

  await it.step("an empty relay says where to begin", async () => {
    await look(page, "overview-empty");
    await page.getByRole("link", { name: "Add OAuth provider" }).click();
    await page.getByRole("navigation", { name: "Provider", exact: true }).getByRole("link", { name: /custom|other/i }).click();
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.getByRole("complementary").getByText(rig.callback).first().waitFor();
  });

  await it.step("a field that is wrong says so, and what was typed stays", async () => {
    await fill(page, { ...rig.form, "Token URL": "http://example.com/token" });
    await it.expecting(/422/, () => page.getByRole("button", { name: "Save and sign in" }).click());
    await page.getByRole("alert").first().waitFor();
    const field = labelled(page, "Token URL");
    assert.equal(await field.getAttribute("aria-invalid"), "true");
    assert.equal(await field.inputValue(), "http://example.com/token");
    assert.equal(await labelled(page, "Name").inputValue(), rig.form.Name);
    assert.equal(await labelled(page, "Client Secret").inputValue(), "", "a secret does not come back");
    await look(page, "provider-wrong");
  });

  await it.step("a wrong client secret: what is wrong and what to do, and nothing has changed", async () => {
    await begin(page, { ...rig.form, "Client Secret": WRONG_SECRET });
    await look(page, "sign-in-browser");
    await atProvider(it, page, true, 400);
    await page.getByText("Not signed in.").waitFor();
    const told = page.locator("#sign-in-state");
    await told.getByText(/client/i).first().waitFor();
    await told.getByText("What to do:").waitFor();
    await look(page, "sign-in-refused");
    assert.deepEqual([await api("GET", "/providers"), await api("GET", "/accounts")], [[], []]);
  });

  await it.step("what was typed is there again, but for the secret", async () => {
    await page.getByRole("link", { name: "Back to the provider" }).click();
    await page.getByRole("heading", { name: "Add OAuth provider", level: 1 }).waitFor();
    for (const label of ["Name", "Client ID", "Scope", "Account name"]) {
      assert.equal(await labelled(page, label).inputValue(), rig.form[label], label);
    }
    assert.equal(await labelled(page, "Client Secret").inputValue(), "");
  });

  await it.step("a consent that is cancelled leaves nothing", async () => {
    await begin(page, rig.form);
    await atProvider(it, page, false, 400);
    await page.getByText("Not signed in.").waitFor();
    assert.deepEqual(await api("GET", "/providers"), []);
    await page.goto(`${rig.console}/providers`);
    await look(page, "providers-empty");
  });

  await it.step("signed in: the profile is in force and the account is ready", async () => {
    await begin(page, rig.form);
    await atProvider(it, page, true, 200);
    await page.getByText("Signed in.").waitFor();
    await look(page, "sign-in-done");
    await page.goto(`${rig.console}/providers`);
    await page.getByRole("row", { name: new RegExp(rig.form.Name) }).getByText("in force").waitFor();
    const [account] = await api("GET", "/accounts");
    assert.deepEqual([account.name, account.state, account.mailbox], [rig.form["Account name"], "ready", rig.mailbox]);
  });

  await it.step("a change that is cancelled leaves what was before", async () => {
    const before = await api("GET", `/providers/${rig.form.Name}`);
    await page.getByRole("link", { name: rig.form.Name, exact: true }).click();
    await look(page, "provider-edit");
    assert.equal(await labelled(page, "Client Secret").inputValue(), "");
    await fill(page, { Scope: `${rig.form.Scope} openid`.replace("openid openid", "openid email") });
    await page.getByRole("button", { name: "Save", exact: true }).click();
    await page.getByRole("heading", { name: /^Sign .* in$/, level: 1 }).waitFor();
    await atProvider(it, page, false, 400);
    await page.getByText("Not signed in.").waitFor();
    await page.getByText("what was in force before still is").waitFor();
    assert.deepEqual(await api("GET", `/providers/${rig.form.Name}`), before);
    assert.equal((await api("GET", "/accounts"))[0].state, "ready");
  });

  await it.step("words for people are saved at once", async () => {
    await page.goto(`${rig.console}/providers/${rig.form.Name}`);
    await fill(page, { Description: "for the <b>alarms</b>" });
    await page.getByRole("button", { name: "Save", exact: true }).click();
    await page.getByRole("status").waitFor();
    await page.goto(`${rig.console}/providers`);
    await page.getByText("for the <b>alarms</b>").waitFor();
    await look(page, "providers");
  });

  await it.step("a test message is sent while one watches its steps", async () => {
    await page.goto(`${rig.console}/accounts/${rig.form["Account name"]}`);
    await look(page, "account");
    await page.getByLabel("Send a test message to").fill("somebody@example.org");
    await page.getByRole("button", { name: "Send test message" }).click();
    await page.getByText("The provider has taken the message.").waitFor();
    assert.ok(await page.getByRole("row").count() > 3, "steps are shown");
    await look(page, "account-test");
    await page.goBack();
    await page.getByRole("button", { name: "Run doctor" }).click();
    await page.getByText("Everything is as it should be.").waitFor();
    await look(page, "account-doctor");
  });

  await it.step("mail of an application goes the same way", async () => {
    await send("by the account that was made here", { from: rig.mailbox });
    await eventually("it is delivered", async () => (await api("GET", "/queue")).entries.length === 0);
    await page.goto(`${rig.console}/`);
    await page.getByText("Mail is flowing.").waitFor();
  });

  await it.step("a device code: QR, code, and the page says by itself how it ended", () => device(it, page));
});

async function device(it, page) {
  await page.goto(`${rig.console}/accounts/${rig.form["Account name"]}`);
  await page.getByRole("button", { name: "Sign in by device code" }).click();
  const code = (await page.locator("#user-code").textContent()).trim();
  await page.getByRole("img", { name: /QR/ }).waitFor();
  await look(page, "sign-in-device");
  await page.evaluate(() => { window.isTheSamePage = true; });
  const url = await page.locator("#sign-in-steps a").first().getAttribute("href");
  const phone = await it.stranger();
  await enterCode(phone, url, code, rig.mailbox);
  await phone.context().close();
  await page.getByText("Signed in.").waitFor();
  assert.equal(await page.evaluate(() => window.isTheSamePage), true, "without a reload");
  assert.equal((await api("GET", "/accounts"))[0].state, "ready");
}

/** Opens the form of a new custom provider, fills it in and saves it. */
async function begin(page, form) {
  await page.goto(`${rig.console}/providers/new?kind=custom`);
  await fill(page, form);
  await save(page);
}

function labelled(page, label) {
  return page.getByLabel(new RegExp(`^${label}( optional)?$`));
}

/** Types into the fields with these labels, or chooses. */
async function fill(page, form) {
  for (const details of await page.locator("details:not([open]) > summary").all()) await details.click();
  for (const [label, value] of Object.entries(form)) {
    const field = labelled(page, label);
    if (await field.evaluate((element) => element.tagName === "SELECT")) await field.selectOption(value);
    else await field.fill(value);
  }
}

/** Save leads to the provider's sign-in. */
async function save(page) {
  await page.getByRole("button", { name: "Save and sign in" }).click();
  await page.getByRole("link", { name: "Open the provider's sign-in" }).waitFor();
}

/** Goes to the provider, decides there and comes back to a page of ours with this status. */
async function atProvider(it, page, isYes, status) {
  // To a provider that remembers the person and the consent there is nothing left to decide.
  await page.context().clearCookies({ name: /^_/ });
  const opened = page.waitForEvent("popup");
  await page.getByRole("link", { name: "Open the provider's sign-in" }).click();
  const provider = await opened;
  const back = provider.waitForResponse((answer) => answer.url().startsWith(rig.callback));
  back.catch(() => {}); // told by whoever awaits it
  const deciding = async () => {
    await decide(provider, rig.mailbox, isYes);
    return back;
  };
  const answer = status < 400 ? await deciding() : await it.expecting(new RegExp(status), deciding);
  assert.equal(answer.status(), status);
  await provider.getByRole("heading", { name: isYes && status < 400 ? "Signed in" : "Not signed in" }).waitFor();
  await provider.close();
}
