"use strict";
/* *Notify me*: the browser's own notification when a desktop is ready, while this tab is open. */

(() => {
  const asked = new Map();

  const isReady = (name) => {
    const shown = `[data-live-name="${CSS.escape(name)}"][data-live-state="Running"]`;
    return document.querySelector(`${shown}, #wait[data-stage="opening"]`) !== null;
  };

  /* Phones refuse this where there is no service worker, whatever the person has allowed. */
  const notify = (name, text) => {
    try {
      new Notification(text, { tag: name }).onclick = () => window.focus();
      return true;
    } catch {
      return false;
    }
  };

  /* Cards are replaced as they change, and come with a new button. */
  const update = () => {
    for (const button of document.querySelectorAll("button[data-notify]")) {
      const answer = asked.get(button.dataset.notify);
      if (answer && button.textContent !== answer) button.textContent = answer;
      if (button.disabled !== Boolean(answer)) button.disabled = Boolean(answer);
      if (button.hidden) button.hidden = typeof Notification !== "function";
    }
    for (const name of [...asked.keys()].filter(isReady)) {
      if (Notification.permission === "granted") notify(name, `${name} is ready`);
      asked.delete(name);
    }
  };

  /* The first notification says what comes, and shows whether one can come at all. */
  const ask = async (event) => {
    const name = event.target.closest("button[data-notify]")?.dataset.notify;
    if (!name) return;
    const allowed = (await Notification.requestPermission()) === "granted";
    const works = allowed && notify(name, `You are notified here when ${name} is ready, while its tab is open.`);
    asked.set(name, works ? "You are notified" : "Notifications are blocked");
    update();
  };

  document.addEventListener("click", ask);
  new MutationObserver(update).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", update);
})();
