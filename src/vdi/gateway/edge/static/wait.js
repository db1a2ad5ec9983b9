"use strict";
/* The waiting page, live: takes in each stage as it comes, and opens the desktop once the desktop itself answers. */

(() => {
  const page = document.getElementById("wait");
  const shown = new Map();
  const heading = () => document.querySelector("#wait-summary h1").textContent;
  /* The title is the heading, then the names of the desktop and of the portal. */
  const titleEnd = document.title.slice(heading().length);
  /* This page again. A reload would send the form again that `Resume` has sent. */
  const waits = `/.vdi/wait?next=${encodeURIComponent(page.dataset.next)}`;
  let opening = false;

  const show = (id, html) => {
    if (shown.get(id) === html) return;
    shown.set(id, html);
    document.getElementById(id).innerHTML = html;
  };

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  const isOurs = (answer) => answer.headers.has("X-VDI-Gateway");

  const answers = async (address, isOne) => {
    try {
      const answer = await fetch(address, { cache: "no-store", redirect: "manual" });
      return answer.type === "opaqueredirect" || isOne(answer);
    } catch {
      return false;
    }
  };

  /* The desktop answers: a response of the gateway has its mark, one of Traefik's own (no desktop there yet) is an error.
     A redirect comes from an image: the gateway redirects pages alone, and this request is not for a page. */
  const desktopAnswers = () => answers(page.dataset.health, (answer) => answer.ok && !isOurs(answer));

  /* The gateway can serve this page. Its response to this fetch is 401 or 503, since only a navigation gets the page, and
     has the mark. One without it comes from Traefik, or from a gateway that starts or has no database. */
  const gatewayAnswers = () => answers(waits, isOurs);

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
      if (update.stage === "again") location.replace(waits);
      /* By then the history knows what happened, and the portal tells the owner. */
      if (update.stage === "gone" && "mine" in page.dataset) setTimeout(() => location.replace(waits), 3000);
    });
    /* A page whose stream is refused (429: too many are open; 503: the gateway is away) loads itself again when the
       gateway answers, each time after a longer pause. */
    events.addEventListener("open", () => sessionStorage.removeItem("vdi-refused"));
    events.addEventListener("error", async () => {
      if (events.readyState !== EventSource.CLOSED) return;
      do {
        const refused = Number(sessionStorage.getItem("vdi-refused")) || 0;
        sessionStorage.setItem("vdi-refused", refused + 1);
        await pause(Math.min(3000 * 2 ** refused, 60000));
      } while (!(await gatewayAnswers()));
      location.replace(waits);
    });
  };

  take(page.dataset.stage);
  /* A desktop that runs mostly answers at once, and the page has nothing to listen for. */
  setTimeout(listen, page.dataset.stage === "opening" ? 300 : 0);
})();
