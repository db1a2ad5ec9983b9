"use strict";
/* Buttons of the portal and the waiting page, which may come later with a live piece: those that copy a text, and
   *Notify me*, the browser's own notification when a desktop is ready, while this tab is open. */

(() => {
  const YES = "You are notified";
  const asked = new Map();

  /* Phones refuse this where there is no service worker, whatever the person has allowed. */
  const notify = (text) => {
    try {
      return new Notification(text);
    } catch {
      return null;
    }
  };

  /* Cards are replaced as they change, and come with a new button. */
  const update = () => {
    for (const button of document.querySelectorAll("[data-notify]")) {
      const answer = asked.get(button.dataset.notify);
      if (answer && button.textContent !== answer) button.textContent = answer;
      [button.disabled, button.hidden] = [Boolean(answer), typeof Notification !== "function"];
    }
    for (const [name, answer] of asked) {
      const card = `[data-live-name="${CSS.escape(name)}"][data-live-state="Running"]`;
      if (!document.querySelector(`${card}, #wait[data-stage="opening"]`)) continue;
      if (answer === YES) notify(`${name} is ready`);
      asked.delete(name);
    }
  };

  /* The first notification says what comes, and shows whether one can come at all. */
  const ask = async (name) => {
    const allowed = (await Notification.requestPermission()) === "granted";
    const works = allowed && notify(`You are notified here when ${name} is ready, while its tab is open.`);
    asked.set(name, works ? YES : "Notifications are blocked");
    update();
  };

  /* Refused by the browser, the text takes the place of its button, chosen for Ctrl+C. */
  const copy = async (button) => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      const text = document.createElement("textarea");
      [text.readOnly, text.value, text.ariaLabel] = [true, button.dataset.copy, "Text to copy"];
      button.replaceWith(text);
      text.select();
    }
  };

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-copy], [data-notify]");
    if (button?.dataset.notify) ask(button.dataset.notify);
    else if (button) copy(button);
  });
  new MutationObserver(update).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", update);
})();
