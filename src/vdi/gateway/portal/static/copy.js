"use strict";
/* Buttons that copy their text, on the portal's pages and the waiting page. They may come later, with a live piece. */

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow copying";
  }
});
