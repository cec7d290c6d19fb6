// Rules are moved by drag and by Alt with the arrows; without script the buttons of the rows and the page "move" do the same.

const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- moving: what the server then shows replaces the list, and the focus stays on the rule

async function move(row, action, after, focus) {
  const form = one("#change");
  const body = new URLSearchParams(new FormData(form));
  body.set("after", after);
  const answer = await fetch(action, { method: "POST", body, headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const list = one("#list", page);
  if (!answer.ok || !list) { location.reload(); return; }
  one("#list").replaceWith(document.adoptNode(list));
  one("#told").replaceChildren(...all("#told > *", page).map((each) => document.adoptNode(each)));
  ready();
  const moved = document.getElementById(row.id);
  const target = moved && (one(focus, moved) || one(".main a", moved));
  target?.focus({ preventScroll: true });
  moved?.scrollIntoView({ block: "nearest" });
}

const step = (row, way) => {
  const button = one(`.steps [data-does=${way}]`, row);
  if (button) move(row, button.formAction, button.value, document.activeElement?.matches(".steps *") ? `.steps [data-does=${way}]` : ".main a");
};

document.addEventListener("click", (event) => {
  const button = event.target.closest(".steps button");
  if (!button || !one("#list")) return;
  event.preventDefault();
  button.focus();
  step(button.closest("tr"), button.dataset.does);
});

document.addEventListener("keydown", (event) => {
  const way = { ArrowUp: "up", ArrowDown: "down" }[event.key];
  const row = event.target.closest?.("tr[data-rule]");
  if (!way || !event.altKey || event.ctrlKey || event.metaKey || !row) return;
  event.preventDefault();
  step(row, way);
});

// ---- drag: a row is taken by its grip

let dragged;
const clear = () => all(".drop-above, .drop-below").forEach((each) => each.classList.remove("drop-above", "drop-below"));
const under = (event) => {
  const row = event.target.closest?.("tr[data-rule]");
  if (!dragged || !row || row === dragged) return undefined;
  const box = row.getBoundingClientRect();
  return { row, above: event.clientY < box.top + box.height / 2 };
};

document.addEventListener("dragstart", (event) => {
  const grip = event.target.closest?.("[data-grip]");
  if (!grip) return;
  dragged = grip.closest("tr");
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", dragged.dataset.rule);
  event.dataTransfer.setDragImage(dragged, 12, 12);
  dragged.classList.add("dragged");
});
document.addEventListener("dragover", (event) => {
  const place = under(event);
  if (!place) return;
  event.preventDefault();
  clear();
  place.row.classList.add(place.above ? "drop-above" : "drop-below");
});
document.addEventListener("drop", (event) => {
  const place = under(event);
  if (!place) return;
  event.preventDefault();
  const row = dragged;
  const action = `${location.pathname.replace(/\/$/, "")}/${row.dataset.rule}/move`;
  move(row, action, `${place.above ? "-" : ""}${place.row.dataset.rule}`, ".main a");
});
document.addEventListener("dragend", () => { clear(); dragged?.classList.remove("dragged"); dragged = undefined; });

function ready() {
  all("[data-grip]").forEach((each) => { each.hidden = false; each.draggable = true; });
}
ready();

// ---- the form: what the server says of a field is marked at the field

document.addEventListener("htmx:afterSettle", () => {
  for (const told of all(".field-error[id]")) {
    const field = document.getElementById(told.id.replace(/-error$/, ""));
    if (!field) continue;
    if (told.textContent) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
});
