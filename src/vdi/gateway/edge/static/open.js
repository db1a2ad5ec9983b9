"use strict";
/* In the opening page itself: opens the desktop if it answers. If it does not, the waiting page keeps asking. */

(async () => {
  const { health, opens, waits } = document.body.dataset;
  const go = (address) => location.replace(address);
  try {
    const answer = await fetch(health, { cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(2000) });
    /* See wait.js. */
    go(answer.type === "opaqueredirect" || (answer.ok && !answer.headers.has("X-VDI-Gateway")) ? opens : waits);
  } catch {
    go(waits);
  }
})();
