// Numbers beside a text that is edited, and what is wrong with it while it is written. Without it the form does the same
// when it is sent.

for (const form of document.querySelectorAll("[data-editor]")) {
  const text = form.querySelector("textarea");
  const numbers = form.querySelector(".numbers");
  const findings = form.querySelector(".findings");

  const number = () => {
    const count = text.value.split("\n").length;
    while (numbers.children.length > count) numbers.lastChild.remove();
    while (numbers.children.length < count) {
      const line = document.createElement("span");
      line.textContent = numbers.children.length + 1;
      numbers.append(line);
    }
    mark();
  };
  const mark = () => {
    for (const line of numbers.children) line.className = "";
    for (const line of findings.querySelectorAll("[data-line]")) {
      const item = line.closest("li");
      const shown = numbers.children[line.dataset.line - 1];
      if (shown && item.className) shown.className = item.className;
    }
  };
  text.addEventListener("scroll", () => { numbers.scrollTop = text.scrollTop; });
  let waiting;
  let asked = 0;
  text.addEventListener("input", () => {
    number();
    clearTimeout(waiting);
    waiting = setTimeout(look, 600);
  });
  async function look() {
    const turn = ++asked;
    const fields = new URLSearchParams(new FormData(form));
    fields.set("do", "look");
    const answer = await fetch(form.action, { method: "POST", body: fields, headers: { accept: "text/html" } });
    if (!answer.ok || turn !== asked) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    findings.replaceChildren(...found.body.childNodes);
    mark();
  }
  // A number leads to its line.
  form.addEventListener("click", (event) => {
    const line = event.target.closest("[data-line]");
    if (!line) return;
    event.preventDefault();
    const lines = text.value.split("\n");
    const start = lines.slice(0, line.dataset.line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    text.focus();
    text.setSelectionRange(start, start + lines[line.dataset.line - 1].length);
    text.scrollTop = Math.max(0, (line.dataset.line - 5) * 20);
  });
  // The Tab key leaves the text, as everywhere.
  number();
}
