"use strict";
/* The waiting page, live: takes in each stage as it comes, and opens the desktop once the desktop itself answers. */

(() => {
  const page = document.getElementById("wait");
  const shown = new Map();
  let opening = false;

  const show = (id, html) => {
    if (shown.get(id) === html) return;
    shown.set(id, html);
    document.getElementById(id).innerHTML = html;
  };

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  /* Who answers: an answer of the gateway has its mark, Traefik's own (no desktop there yet) is none that is good. Only
     an image redirects here: the gateway redirects pages, and this is none. */
  const desktopAnswers = async () => {
    try {
      const answer = await fetch(page.dataset.health, { cache: "no-store", redirect: "manual" });
      return answer.type === "opaqueredirect" || (answer.ok && !answer.headers.has("X-VDI-Gateway"));
    } catch {
      return false;
    }
  };

  const open = async () => {
    if (opening) return;
    opening = true;
    for (let wait = 30; page.dataset.stage === "opening"; wait = Math.min(wait * 1.4, 2000)) {
      if (await desktopAnswers()) {
        location.replace(page.dataset.opens);
        return;
      }
      await pause(wait);
    }
    opening = false;
  };

  const take = (stage) => {
    page.dataset.stage = stage;
    if (stage === "opening") open();
  };

  const listen = () => {
    const events = new EventSource(`/.vdi/events?next=${encodeURIComponent(page.dataset.next)}`);
    events.addEventListener("stage", (event) => {
      const told = JSON.parse(event.data);
      show("wait-summary", told.summary);
      show("wait-steps", told.steps);
      document.title = `${document.querySelector("#wait-summary h1").textContent} · VDI`;
      take(told.stage);
      if (told.stage === "gone" || told.stage === "again") events.close();
      if (told.stage === "again") location.reload();
    });
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
    });
  };

  listen();
  take(page.dataset.stage);
})();
