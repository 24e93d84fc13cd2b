// What a person does at a provider's own pages: npm oidc-provider's and the sandbox's.
import assert from "node:assert/strict";

/** Signs in as `mailbox` and consents, or not, on the page that a sign-in leads to. */
export async function decide(page, mailbox, isYes) {
  await page.locator("form").first().waitFor();
  return await page.locator("input#mailbox").count() > 0 ? atSandbox(page, mailbox, isYes) : atOidc(page, mailbox, isYes);
}

/** Enters a device's code and consents. */
export async function enterCode(page, url, code, mailbox) {
  await page.goto(url);
  if (await page.locator("input#user_code").count() > 0) {
    const field = page.getByLabel("Code");
    if (await field.inputValue() === "") await field.fill(code);
    return atSandbox(page, mailbox, true);
  }
  // The address with the code in it skips the page that asks for it.
  const field = page.locator("input[name=user_code]:visible");
  if (await field.count() > 0) {
    await field.fill(code);
    await page.getByRole("button", { name: "Continue" }).click();
  }
  await page.getByText("Confirm Device").waitFor();
  assert.ok((await page.locator("code").textContent()).includes(code));
  await page.getByRole("button", { name: "Continue" }).click();
  await atOidc(page, mailbox, true);
  await page.getByText("Sign-in Success").waitFor();
}

async function atSandbox(page, mailbox, isYes) {
  await page.getByLabel("Mailbox").fill(mailbox);
  await page.getByRole("button", { name: isYes ? "Allow" : "Deny" }).click();
}

async function atOidc(page, mailbox, isYes) {
  if (!isYes) return page.getByRole("link", { name: "[ Cancel ]" }).click();
  // Whoever has signed in before is asked for nothing but the consent.
  const login = page.getByPlaceholder("Enter any login");
  const consent = page.getByRole("button", { name: "Continue" });
  await login.or(consent).first().waitFor();
  if (await login.count() > 0) {
    await login.fill(mailbox);
    await page.getByPlaceholder("and password").fill("any");
    await page.getByRole("button", { name: "Sign-in" }).click();
  }
  return consent.click();
}
