// The console works without this. With it: live parts renew themselves, a form is sent once, values
// can be copied, lists can be ticked at once.
"use strict";

(() => {
  const QUIET_MS = 1000;   // after an event: others come with it
  const STALE_MS = 30000;  // "3m ago" must not become a lie
  const RETRY_MS = [2000, 5000, 15000, 30000];

  let source = null, pending = null, fetching = false, failures = 0;

  const live = () => document.querySelectorAll("[data-live][id]");

  function renewSoon(delay) {
    if (pending === null) pending = setTimeout(renew, delay);
  }

  async function renew() {
    pending = null;
    if (document.hidden) return;
    if (fetching) { renewSoon(QUIET_MS); return; }
    fetching = true;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "error" });
      if (answer.status === 401) { location.reload(); return; }
      if (answer.ok) { replace(await answer.text()); connected(true); }
    } catch { connected(false); /* the next event, or the next half minute, tries again */ }
    finally { fetching = false; renewSoon(STALE_MS); }
  }

  /** Says so where what is shown may be of the past. */
  function connected(is) {
    const told = document.getElementById("connection");
    if (is) { told?.remove(); return; }
    if (told) return;
    const text = document.createElement("p");
    text.id = "connection";
    text.className = "flash bad";
    text.setAttribute("role", "alert");
    text.textContent = `No connection to Gatepost since ${new Date().toLocaleTimeString()}: what is shown here is of before. Is the service running?`;
    document.getElementById("main").prepend(text);
  }

  function replace(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    enhance(page);
    const focused = document.activeElement;
    const part = focused?.closest("[data-live][id]");
    for (const old of live()) {
      const fresh = page.getElementById(old.id);
      if (fresh) renewInPlace(old, fresh);
    }
    // A row that has moved is built anew.
    if (part && document.activeElement !== focused && keyOf(focused) !== "") {
      const same = [...part.querySelectorAll(focused.tagName)].find((element) => keyOf(element) === keyOf(focused));
      same?.focus({ preventScroll: true });
    }
  }

  // What a person has opened, and a form that is on its way, are no news of the server's.
  const OWN = ["open", "data-sent", "aria-disabled"];

  /** Makes `old` like `fresh`, and touches nothing that is: focus, ticks, what is typed, opened or selected, and the
      place a person has scrolled to, all hang on elements that stay. */
  function renewInPlace(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !OWN.includes(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !OWN.includes(name)) old.setAttribute(name, value);
    }
    let next = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const same = counterpart(next, child);
      while (same && next !== same) next = removed(next);
      if (same) { renewInPlace(same, child); next = same.nextSibling; }
      else old.insertBefore(document.importNode(child, true), next);
    }
    while (next) next = removed(next);
  }

  function removed(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  /** What stands for `child` already, from `next` on: what has its key, or without a key what is there. */
  function counterpart(next, child) {
    const key = keyOf(child);
    const is = (node) => node.nodeName === child.nodeName && keyOf(node) === key;
    if (key === "") return next && is(next) ? next : null;
    while (next && !is(next)) next = next.nextSibling;
    return next;
  }

  /** What makes an element the same one after a renewal. */
  function keyOf(node) {
    const get = (name) => node.getAttribute?.(name) ?? "";
    const named = get("name") && `${get("name")}=${get("value")}`;
    return get("id") || get("data-key") || get("href") || named || get("formaction") || get("action");
  }

  function listen() {
    if (source !== null || document.hidden || live().length === 0) return;
    source = new EventSource("/events");
    source.addEventListener("open", () => {
      failures = 0;
      // What has changed meanwhile is told to nobody.
      if (document.getElementById("connection")) renew();
    });
    source.addEventListener("changed", () => {
      clearTimeout(pending); pending = null;
      renewSoon(QUIET_MS);
    });
    source.addEventListener("error", () => {
      if (source === null) return;
      // A look tells whether anybody is there.
      clearTimeout(pending); pending = null;
      renewSoon(QUIET_MS);
      // The browser comes back by itself, unless the answer was no.
      if (source.readyState !== EventSource.CLOSED) return;
      source = null;
      const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
      setTimeout(listen, wait);
    });
  }

  function pause() {
    if (source !== null) source.close();
    source = null;
    clearTimeout(pending); pending = null;
  }

  function enhance(page) {
    for (const button of page.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
    for (const box of page.querySelectorAll("input[data-check-all]")) box.hidden = false;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) pause();
    else { renew(); listen(); }
  });
  addEventListener("pagehide", pause);
  addEventListener("pageshow", (event) => { if (event.persisted) { renew(); listen(); } });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    // A download leaves the page where it is: the form is for the next button as well.
    if (form.method !== "post" || event.submitter?.dataset.download !== undefined) return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
    form.querySelectorAll("button").forEach((button) => button.setAttribute("aria-disabled", "true"));
    setTimeout(() => {
      delete form.dataset.sent;
      form.querySelectorAll("button").forEach((button) => button.removeAttribute("aria-disabled"));
    }, 10000);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const from = document.getElementById(button.dataset.copy);
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(from.value ?? from.textContent.trim());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = said; }, 2000);
    } catch { from.focus(); }
  });

  // Where a URL of a provider is empty, the one that follows from its tenant holds: shown in grey.
  document.addEventListener("change", async (event) => {
    const { form, name } = event.target;
    if (!form?.dataset.presets || (name !== "tenant" && name !== "cloud")) return;
    const asked = new URLSearchParams({ kind: form.dataset.presets });
    for (const key of ["tenant", "cloud"]) if (form.elements[key].value) asked.set(key, form.elements[key].value);
    try {
      const answer = await fetch(`/api/v1/presets?${asked}`);
      const known = answer.ok ? await answer.json() : {};
      for (const input of form.elements) if (typeof known[input.name] === "string") input.placeholder = known[input.name];
    } catch { /* the server fills them in all the same */ }
  });

  document.addEventListener("change", (event) => {
    const all = event.target;
    if (!all.matches("input[data-check-all]")) return;
    const boxes = document.querySelectorAll("input[type=checkbox]");
    for (const box of boxes) if (box.name === all.dataset.checkAll) box.checked = all.checked;
  });

  enhance(document);
  listen();
  if (live().length > 0) renewSoon(STALE_MS);
})();
