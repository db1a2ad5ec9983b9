"use strict";
/* The form that announces ends: clock times beside its choices, and a button that says what it does. */

(() => {
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

  const update = () => {
    const form = document.getElementById("bulk");
    if (!form) return;
    const { action, notice } = form.elements;
    for (const option of notice.options) {
      const minutes = Number.parseInt(option.value, 10) * (option.value.endsWith("h") ? 60 : 1);
      option.dataset.clock = clock.format(Date.now() + minutes * 60000);
      option.label = `${option.text}, ${option.dataset.clock}`;
    }
    const hasEnd = ["Suspend", "Terminate"].includes(action.value);
    notice.closest(".field").hidden = !hasEnd;
    form.elements.message.required = action.value === "message";
    const chosen = document.querySelectorAll("input[form=bulk][type=checkbox]:checked").length;
    const what = action.selectedOptions[0].text;
    const desktops = `${chosen} desktop${chosen === 1 ? "" : "s"}`;
    const label = hasEnd ? `${what} ${desktops} at ${notice.selectedOptions[0].dataset.clock}` : `${what} in ${desktops}`;
    form.querySelector("button").textContent = chosen ? label : "Choose desktops first";
  };

  document.addEventListener("DOMContentLoaded", () => {
    update();
    for (const name of ["change", "htmx:afterSwap", "htmx:sseMessage"]) document.addEventListener(name, update);
    setInterval(update, 15000);
  });
})();
