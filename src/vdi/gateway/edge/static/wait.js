"use strict";
/* The waiting page, live: takes in each stage as it comes, and opens the desktop once the desktop itself answers. */

(() => {
  const page = document.getElementById("wait");
  const shown = new Map();
  const heading = () => document.querySelector("#wait-summary h1").textContent;
  /* The title is the heading, then the names of the desktop and of the portal. */
  const titleEnd = document.title.slice(heading().length);
  let opening = false;

  const show = (id, html) => {
    if (shown.get(id) === html) return;
    shown.set(id, html);
    document.getElementById(id).innerHTML = html;
  };

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  /* The desktop answers: a response of the gateway has its mark, one of Traefik's own (no desktop there yet) is an error.
     A redirect comes from an image: the gateway redirects pages alone, and this request is not for a page. */
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
      const update = JSON.parse(event.data);
      show("wait-summary", update.summary);
      show("wait-steps", update.steps);
      document.title = heading() + titleEnd;
      take(update.stage);
      if (update.stage === "gone" || update.stage === "again") events.close();
      if (update.stage === "again") location.reload();
    });
    /* A page whose stream is refused (429: too many are open) loads itself again, each time after a longer pause. */
    const refused = Number(sessionStorage.getItem("vdi-refused")) || 0;
    events.addEventListener("open", () => sessionStorage.removeItem("vdi-refused"));
    events.addEventListener("error", () => {
      if (events.readyState !== EventSource.CLOSED) return;
      sessionStorage.setItem("vdi-refused", refused + 1);
      setTimeout(() => location.reload(), Math.min(3000 * 2 ** refused, 60000));
    });
  };

  take(page.dataset.stage);
  /* A desktop that runs mostly answers at once, and the page has nothing to listen for. */
  setTimeout(listen, page.dataset.stage === "opening" ? 300 : 0);
})();
