// A person at the console, in a real Chromium. `scenario` starts one browser and plays steps in it; whatever
// a page does that no page may do (an error of a script, a breach of the policy, a dialog, a request to
// somebody else, an answer without its security headers) fails the step in which it happens. Of a step that
// fails a screenshot stays in target/artefacts/console.
//
// Environment: RIG, a JSON object made by mod.rs.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { appendFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import nodemailer from "nodemailer";

export const rig = JSON.parse(process.env.RIG);

/** The widths of a desk and of a phone, in CSS pixels. */
export const WIDTHS = [1280, 390];
export const SCHEMES = ["light", "dark"];

/** Names of strangers that lead here all the same, as after DNS rebinding. */
export const EVIL = "evil.example";
const NAMES = `MAP ${EVIL} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1`;

/** A guard against hanging; no test asserts how long anything takes. */
const PATIENCE_MS = 40_000;

const MARK_OF_A_BREACH = "policy breached:";

/** Plays `play(it)` in a new browser. */
export async function scenario(play) {
  mkdirSync(rig.artefacts, { recursive: true });
  for (const old of readdirSync(rig.artefacts)) {
    if (old.startsWith(`FAILED-${rig.scenario}-`)) rmSync(join(rig.artefacts, old));
  }
  const browser = await chromium.launch({
    executablePath: rig.chromium,
    // Root may not use Chromium's sandbox; a container's /dev/shm is small.
    // No page leads into the Internet, as the fonts of oidc-provider's would.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server", `--host-resolver-rules=${NAMES}`],
  });
  const it = new Play(browser);
  try {
    await play(it);
    it.complain();
    console.log(`${rig.scenario}: ok`);
  } catch (error) {
    await it.keepWhatItLookedLike();
    console.error(`${rig.scenario}: FAILED in "${it.now}"\n${error.stack ?? error}`);
    for (const complaint of it.complaints) console.error(`also: ${complaint}`);
    process.exitCode = 1;
  } finally {
    await browser.close();
    // Not even a server that a scenario has left open keeps it waiting.
    process.exit();
  }
}

class Play {
  constructor(browser) {
    this.browser = browser;
    this.now = "the beginning";
    /** What pages have done and may not do. */
    this.complaints = [];
    this.expected = [];
    /** Answers that are being looked at. */
    this.judging = [];
    /** What belongs to the console: its address, and the name that redirect URLs have. */
    this.origins = new Set([rig.console, rig.console.replace("127.0.0.1", "localhost")]);
  }

  /** One step of the story; fails when a page does what it may not. */
  async step(name, play) {
    this.now = name;
    const began = Date.now();
    await play();
    await Promise.all(this.judging.splice(0));
    this.complain();
    console.log(`  ${name} (${Date.now() - began} ms)`);
  }

  /** What is complained of in this step and matches is meant to happen; it must. */
  async expecting(pattern, play) {
    const expected = { pattern, seen: 0 };
    this.expected.push(expected);
    const result = await play();
    // What a browser says of an answer comes after the answer.
    await eventually(`a complaint like ${pattern}`, () => expected.seen > 0);
    this.expected.splice(this.expected.indexOf(expected), 1);
    return result;
  }

  complain() {
    assert.deepEqual(this.complaints, [], "a page did what no page may do");
  }

  note(complaint) {
    const expected = this.expected.find(({ pattern }) => pattern.test(complaint));
    if (expected) expected.seen += 1;
    else this.complaints.push(complaint);
  }

  /** A new person: no cookies, a page of their own. */
  async visitor(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: WIDTHS[0], height: 900 }, ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    if (options.javaScriptEnabled !== false) {
      await context.addInitScript((mark) => {
        document.addEventListener("securitypolicyviolation", (event) => {
          console.error(mark, event.effectiveDirective, event.blockedURI);
        });
      }, MARK_OF_A_BREACH);
    }
    context.on("console", (message) => {
      const isBad = ["error", "warning"].includes(message.type());
      // What it is about, or where it was said.
      if (isBad && (this.isOurs(message.location().url) || this.isOurs(message.page()?.url()))) this.note(`console: ${message.text()}`);
    });
    context.on("weberror", (error) => {
      if (this.isOurs(error.page()?.url())) this.note(`script: ${error.error()}`);
    });
    context.on("request", (asked) => this.watch(asked));
    context.on("response", (answer) => this.judging.push(this.judge(answer)));
    context.on("dialog", (dialog) => {
      this.note(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    const page = await context.newPage();
    this.page ??= page;
    return page;
  }

  /** Somebody at another device, whose pages are not ours to judge. */
  async stranger() {
    const context = await this.browser.newContext();
    context.setDefaultTimeout(PATIENCE_MS);
    return context.newPage();
  }

  isOurs(url = "") {
    return url.startsWith("chrome-error:") || [...this.origins].some((origin) => url.startsWith(`${origin}/`));
  }

  /** A page of ours asks nobody but us; a link that a person clicks may lead elsewhere. */
  watch(asked) {
    const url = new URL(asked.url());
    if (url.protocol === "data:" || this.origins.has(url.origin) || asked.isNavigationRequest()) return;
    if (this.isOurs(asked.frame().page().url())) this.note(`request to ${asked.url()}`);
  }

  /** A visitor who has logged in with a one-time code. */
  async operator(options = {}) {
    const page = await this.visitor(options);
    await page.goto((await invitation()).href);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
    return page;
  }

  /** Every answer of the console keeps the rules, whatever the scenario is about. */
  async judge(answer) {
    const url = new URL(answer.url());
    if (!this.origins.has(url.origin)) return;
    // A page that is closed takes what it knew with it.
    const fields = await answer.allHeaders().catch(() => null);
    if (fields === null) return;
    for (const flaw of flaws(url, fields)) this.note(`${answer.request().method()} ${url.pathname}: ${flaw}`);
    const kind = fields["content-type"] ?? "";
    if (!/html|json|xml/.test(kind) || /^3/.test(answer.status())) return;
    // What a browser was told, for the search for secrets. One that has moved on has no body any more.
    const body = await answer.text().catch(() => "");
    appendFileSync(rig.told, `${url.pathname}\n${body}\n`);
  }

  async keepWhatItLookedLike() {
    for (const [at, page] of this.browser.contexts().flatMap((context) => context.pages()).entries()) {
      const name = join(rig.artefacts, `FAILED-${rig.scenario}-${at}`);
      try {
        await page.screenshot({ path: `${name}.png`, fullPage: true });
        writeFileSync(`${name}.html`, await page.content());
        console.error(`${page.url()} as it was: ${name}.png`);
      } catch (error) {
        console.error(`no screenshot of ${page.url()}: ${error.message}`);
      }
    }
  }
}

/** What an answer of the console lacks. */
function flaws(url, fields) {
  const found = [];
  const policy = fields["content-security-policy"] ?? "";
  if (!policy.startsWith("default-src 'none'")) found.push(`policy is ${policy}`);
  if (!policy.includes("frame-ancestors 'none'")) found.push("may be framed");
  if (policy.includes("unsafe")) found.push(`policy allows the inline: ${policy}`);
  if (fields["x-content-type-options"] !== "nosniff") found.push("may be sniffed");
  const isAsset = url.pathname.startsWith("/assets/");
  if (!isAsset && fields["cache-control"] !== "no-store") found.push(`may be stored: ${fields["cache-control"]}`);
  for (const cookie of (fields["set-cookie"] ?? "").split("\n").filter(Boolean)) {
    if (!/; HttpOnly/.test(cookie)) found.push(`scripts can read ${cookie}`);
    if (!/; SameSite=Strict/.test(cookie)) found.push(`other sites can send ${cookie}`);
  }
  return found;
}

/** Waits for a fact that no page tells: of the relay, of another server. Its value. */
export async function eventually(what, fact) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await fact();
    if (found) return found;
    assert.ok(Date.now() < end, `did not come true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs a verb of the command line; what it printed. */
export async function gatepost(...verb) {
  const { stdout } = await promisify(execFile)(rig.gatepost, [...verb, "--config", rig.config]);
  return stdout;
}

/** A new address with a one-time code. */
export async function invitation() {
  return new URL(JSON.parse(await gatepost("console", "--json")).url);
}

/** Asks the API on the control socket; the answer, which must be good. */
export async function api(method, path, body) {
  const { status, answer } = await new Promise((resolve, reject) => {
    const headers = { host: "localhost", ...(body && { "content-type": "application/json" }) };
    const asked = request({ socketPath: rig.socket, method, path: `/api/v1${path}`, headers }, async (answer) => {
      const octets = (await answer.toArray()).join("");
      resolve({ status: answer.statusCode, answer: octets ? JSON.parse(octets) : null });
    });
    asked.on("error", reject).end(body && JSON.stringify(body));
  });
  assert.ok(status < 300, `${method} ${path}: ${status} ${JSON.stringify(answer)}`);
  return answer;
}

/** Sends a message through the relay, as an application does; what the relay said to it. */
export async function send(subject, more = {}) {
  const { login, ...message } = more;
  const transport = nodemailer.createTransport({ ...rig.smtp, ignoreTLS: true, ...(login && { auth: login }) });
  const sent = await transport.sendMail({
    from: "app@example.test", to: "rcpt@example.org", subject, text: "Hello.\n", ...message,
  });
  transport.close();
  return sent.response;
}

/** Logs out, as a person does. */
export async function logOut(page) {
  await page.getByRole("banner").getByRole("button", { name: "Log out" }).click();
  await page.getByRole("heading", { name: "Log in", level: 1 }).waitFor();
}
