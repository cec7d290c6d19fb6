// What makes pages quicker to use; each works without it. Nothing here makes HTML: what is shown comes from the server.

const quiet = matchMedia("(prefers-reduced-motion: reduce)");
const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const number = new Intl.NumberFormat("en");

// ---- times: "3 min ago" goes on while the page stays open (quell.console.words.ago)

function ago(element) {
  const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
  const size = Math.abs(seconds);
  for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    if (size >= unit) {
      const told = `${Math.floor(size / unit)} ${name}`;
      return seconds > 0 ? `${told} ago` : `in ${told}`;
    }
  }
  return "now";
}

function tellTimes(within = document) {
  for (const element of all("time[datetime]", within)) {
    const told = ago(element);
    if (element.textContent !== told) element.textContent = told;
  }
}
setInterval(() => document.hidden || tellTimes(), 10_000);

// ---- live pages: one message a second with the parts that changed (quell.console.live)

const live = one("[data-live]");
if (live) {
  const mark = one(".live", live);
  const waiting = new Map();
  let drawn = false;
  const tell = (state, word) => {
    if (!mark) return;
    mark.hidden = false;
    mark.dataset.state = state;
    one(".live-word", mark).textContent = word;
  };
  const draw = () => {
    drawn = false;
    for (const [name, html] of waiting) {
      const part = one(`[data-part="${CSS.escape(name)}"]`, live);
      if (!part) waiting.delete(name);
      // What somebody points at or has the focus in is not taken from under them.
      else if (!(part.hasAttribute("data-holds") && part.matches(":hover, :focus-within"))) {
        const open = all("details", part).map((each) => each.open);
        part.innerHTML = html;
        all("details", part).forEach((each, place) => { each.open = open[place] ?? each.open; });
        waiting.delete(name);
        fresh(part);
      }
    }
  };
  const fresh = (part) => {
    const total = one("[data-total]", part);
    const button = one("[data-fresh]");
    if (!total || !button) return;
    const since = Number(total.dataset.total) - Number(live.dataset.written);
    button.hidden = since === 0;
    button.textContent = since > 0 ? `Show ${number.format(since)} new` : "Show what is new";
  };
  let source;
  const connect = () => {
    if (source || document.hidden) return;
    source = new EventSource(live.dataset.live);
    source.onopen = () => tell("on", "live");
    source.onmessage = (message) => {
      for (const [name, html] of Object.entries(JSON.parse(message.data))) waiting.set(name, html);
      if (!drawn) {
        drawn = true;
        requestAnimationFrame(draw);
      }
    };
    source.onerror = () => {
      const ended = source.readyState === EventSource.CLOSED;
      tell("off", ended ? "not live: log in again" : "connecting");
    };
  };
  const disconnect = () => { source?.close(); source = undefined; };
  // A page that nobody sees asks for nothing, and one that is left or shown again from the cache begins anew.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", connect);
  connect();
}

// ---- dialogs: a link that asks shows the form of its page here

const dialog = one("#dialog");
document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-asks]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && dialog) {
    event.preventDefault();
    const answer = await fetch(link.href, { headers: { accept: "text/html" } });
    const form = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#confirm");
    if (!form) { location.href = link.href; return; }
    dialog.replaceChildren(document.adoptNode(form));
    window.htmx?.process(dialog);
    dialog.showModal();
    return;
  }
  if (event.target.closest("dialog [data-closes]")) {
    event.preventDefault();
    event.target.closest("dialog").close();
  }
  const opener = event.target.closest("[data-opens]");
  if (opener) one(`#${opener.dataset.opens}`).showModal();
  const copier = event.target.closest("[data-copies]");
  if (copier) {
    await navigator.clipboard.writeText(one("code", copier.parentElement).textContent);
    copier.classList.add("copied");
    setTimeout(() => copier.classList.remove("copied"), 1500);
  }
});

// A form is sent once.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
});
addEventListener("pageshow", () => all("form[data-sent]").forEach((form) => delete form.dataset.sent));

// ---- keys

function rows() {
  return all("main table.rows tbody tr").map((row) => one("a, button", row)).filter(Boolean);
}

function step(by) {
  const found = rows();
  const here = found.indexOf(document.activeElement?.closest("tr") ? one("a, button", document.activeElement.closest("tr")) : null);
  const next = found[Math.min(found.length - 1, Math.max(0, here < 0 ? 0 : here + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest", behavior: quiet.matches ? "auto" : "smooth" });
}

let before = "";
let forget;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest("input, textarea, select, [contenteditable]") || one("dialog[open]")) return;
  const keys = before ? `${before} ${event.key}` : event.key;
  clearTimeout(forget);
  before = "";
  const link = all("[data-keys]").find((each) => each.dataset.keys === keys);
  if (link) { event.preventDefault(); link.click(); return; }
  switch (event.key) {
    case "g": before = "g"; forget = setTimeout(() => { before = ""; }, 1500); break;
    case "?": event.preventDefault(); one("#keys")?.showModal(); break;
    case "/": { const field = one("[data-search]"); if (field) { event.preventDefault(); field.focus(); field.select(); } break; }
    case "j": step(1); break;
    case "k": step(-1); break;
  }
});

// What only works with script is shown when there is some.
all("[data-copies], [data-opens]").forEach((each) => { each.hidden = false; });
