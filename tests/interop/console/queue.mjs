// The queue in the hands of a person: looked at, held, released, retried, deleted, one by one and many at once.
// What strangers wrote into their mail is text on every page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { api, eventually, rig, scenario, send } from "./browser.mjs";
import { look } from "./look.mjs";

const EVIL_SUBJECT = `<img src=x onerror="alert(1)"><script>document.title='taken'</script>`;
const MANY = 12;

await scenario(async (it) => {
  const page = await it.operator();
  await api("POST", "/accounts/alerts/hold");
  const queue = async () => (await api("GET", "/queue")).entries;

  await it.step("a Subject with markup in it is a text with markup in it", async () => {
    await send(EVIL_SUBJECT, { from: `"<b>bold</b>" <evil@example.test>`, text: "<script>alert(2)</script>\n" });
    const [{ id }] = await queue();
    await page.goto(`${rig.console}/queue`);
    await page.getByRole("link", { name: id }).click();
    await page.getByText(EVIL_SUBJECT).first().waitFor();
    await look(page, "queue-message");
    await page.getByRole("button", { name: "Show the body" }).click();
    await page.getByText("<script>alert(2)</script>").first().waitFor();
    await look(page, "queue-body");
    await eventually("that it was looked at is in the log", () => {
      const read = readFileSync(rig.log, "utf8").split("\n").filter((line) => line.includes("message read"));
      return read.some((line) => line.includes(id));
    });
    await page.goto(`${rig.console}/trace`);
    await page.locator("summary").first().click();
    assert.equal(await page.locator("main img").count(), 0);
    assert.notEqual(await page.title(), "taken");
    await look(page, "trace-one");
  });

  await it.step("held, released and asked before it is deleted", async () => {
    const [{ id }] = await queue();
    const state = async () => (await api("GET", `/queue/${id}`)).state;
    await page.goto(`${rig.console}/queue/${id}`);
    await page.getByRole("button", { name: "Hold", exact: true }).click();
    await page.getByRole("status").waitFor();
    assert.equal(await state(), "held");
    await look(page, "queue-held");
    await page.getByRole("button", { name: "Release", exact: true }).click();
    await page.getByRole("status").waitFor();
    assert.notEqual(await state(), "held");
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await look(page, "queue-delete");
    await page.getByRole("link", { name: "Cancel" }).click();
    assert.equal((await queue()).length, 1, "asked first");
    await page.goto(`${rig.console}/queue/${id}`);
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.locator("main").getByRole("button", { name: /Delete/ }).click();
    await page.getByRole("status").waitFor();
    assert.deepEqual(await queue(), []);
  });

  await it.step("many at once, by ticks and by search", async () => {
    for (let at = 0; at < MANY; at += 1) {
      await send(`number ${at}`, { from: at % 2 ? "odd@example.test" : "even@example.test" });
    }
    await page.goto(`${rig.console}/queue`);
    await page.getByLabel("Tick all on this page").check();
    await page.getByRole("button", { name: "Hold", exact: true }).click();
    await eventually("all are held", async () => (await queue()).every(({ state }) => state === "held"));
    await page.goto(`${rig.console}/queue`);
    await page.getByLabel("Sender").fill("odd");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByRole("link", { name: "Show all" }).waitFor();
    assert.equal(await page.locator("tbody tr").count(), MANY / 2);
    await page.getByLabel(/with all/).check();
    await page.getByRole("button", { name: "Release", exact: true }).click();
    await eventually("those that match are released", async () => {
      const held = (await queue()).filter(({ state }) => state === "held");
      return held.length === MANY / 2 && held.every(({ sender }) => sender.startsWith("even"));
    });
    await page.goto(`${rig.console}/queue`);
    assert.equal(await page.locator("#runs-over").evaluate(({ open }) => open), false, "what is over takes one line");
    for (const link of await page.locator("tbody tr").getByRole("link").all()) {
      await link.focus();
      assert.ok(await link.evaluate(isOnTop), "the bar does not cover what has the focus");
    }
    await page.locator("#runs-over summary").click();
    await page.locator("#runs-over").getByText("messages with sender odd").waitFor();
    await look(page, "queue");
  });

  await it.step("an address as long as they come stays in its place", async () => {
    const long = `${"a".repeat(60)}@${"b".repeat(40)}.example.org`;
    await send("far", { from: "even@example.test", to: long });
    const { id } = (await queue()).at(-1);
    await page.goto(`${rig.console}/queue`);
    await page.getByText(long).waitFor();
    await look(page, "queue-long");
    await page.getByRole("link", { name: id }).click();
    await page.getByRole("rowheader", { name: long }).waitFor();
    await look(page, "queue-message-long");
    await api("POST", "/queue/delete", { ids: [id] });
  });

  await it.step("exported to a file", async () => {
    await page.goto(`${rig.console}/queue`);
    await page.getByLabel(/with all/).check();
    const downloaded = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export" }).click();
    const archive = readFileSync(await (await downloaded).path());
    assert.ok(archive.includes("Subject: number 3"), "the messages are in it");
  });

  await it.step("all deleted after a question; the account goes on and the rest is delivered", async () => {
    await page.goto(`${rig.console}/queue`);
    await page.getByLabel("Sender").fill("even");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByLabel(/with all/).check();
    await page.getByRole("button", { name: "Delete" }).click();
    assert.equal((await queue()).length, MANY, "asked first");
    await page.locator("main").getByRole("button", { name: /Delete/ }).click();
    await eventually("half of it is gone", async () => (await queue()).length === MANY / 2);
    await page.goto(`${rig.console}/queue`);
    await api("POST", "/accounts/alerts/release");
    await page.getByLabel(/with all/).check();
    await page.getByRole("button", { name: "Retry now" }).click();
    await eventually("the rest is delivered", async () => (await queue()).length === 0);
    await page.goto(`${rig.console}/queue`);
    await page.getByText("The queue is empty").waitFor();
    await look(page, "queue-empty");
    await page.goto(`${rig.console}/trace`);
    await page.locator("summary").getByText("delivered").first().waitFor();
    await look(page, "trace");
  });
});

/** In the page: nothing lies over it. */
function isOnTop(element) {
  const { left, top, width, height } = element.getBoundingClientRect();
  return element.contains(document.elementFromPoint(left + width / 2, top + height - 1));
}
