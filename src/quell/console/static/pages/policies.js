// The form of a policy: fields that follow from a choice appear at once. Without it a button draws the form anew.

for (const form of document.querySelectorAll(".policy-form")) {
  for (const button of form.querySelectorAll(".no-script")) button.hidden = true;
  form.addEventListener("change", (event) => {
    const select = event.target;
    if (select.matches("[data-redraws]")) {
      const button = select.closest(".entry").querySelector(".no-script");
      form.requestSubmit(button);
    } else if (select.matches("[data-part-of]")) {
      const key = select.closest(".condition").querySelector(".key");
      key.hidden = select.value.includes(".");
    }
  });
}
