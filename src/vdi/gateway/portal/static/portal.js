"use strict";
/* What the portal adds where scripts run: times that count down, confirmations in place, announcements, live notices. */

(() => {
  const MINUTE = 60000;

  /* ---- times ------------------------------------------------------------------------------------------------- */

  const span = (milliseconds) => {
    const minutes = Math.floor(milliseconds / MINUTE);
    if (minutes < 1) return "less than a minute";
    const parts = [[Math.floor(minutes / 1440), "d"], [Math.floor(minutes / 60) % 24, "h"], [minutes % 60, "min"]];
    return parts.filter(([number]) => number).slice(0, 2).map(([number, unit]) => `${number} ${unit}`).join(" ");
  };

  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

  const tell = (element) => {
    const instant = Date.parse(element.dateTime);
    if (Number.isNaN(instant)) return;
    const now = Date.now();
    switch (element.dataset.say) {
      case "left":
        element.textContent = instant > now ? `${span(instant - now)} left` : "over";
        break;
      case "ago":
        element.textContent = now - instant < MINUTE ? "just now" : `${span(now - instant)} ago`;
        break;
      default:
        element.textContent = local.format(instant);
    }
    if (element.dataset.say) element.title = local.format(instant);
  };

  const tellTimes = (root) => root.querySelectorAll("time[datetime]").forEach(tell);

  /* ---- confirmations: a link to a page that asks, shown in place ---------------------------------------------- */

  const dialog = () => document.getElementById("dialog");

  /* What was asked for may be gone by now: then the page itself says so. */
  const showDialog = (path) => {
    if (!document.querySelector("#dialog-body > *")) location.assign(path);
    else if (!dialog().open) dialog().showModal();
  };

  const closeDialog = (event) => {
    if (event.target.closest("[data-close]") && dialog().open) {
      event.preventDefault();
      dialog().close();
    }
  };

  /* ---- live ------------------------------------------------------------------------------------------------------ */

  const known = new Map();

  const announce = (root, silent) => {
    const said = [];
    root.querySelectorAll("[data-live-name]").forEach((element) => {
      const { liveName: name, liveState: state, liveKey: key } = element.dataset;
      if (known.has(key) && known.get(key) !== state) said.push(`${name}: ${state}`);
      known.set(key, state);
    });
    if (said.length && !silent) document.getElementById("announcer").textContent = said.join(". ");
  };

  const liveNotice = (text) => {
    const place = document.getElementById("live-notice");
    if (!place) return;
    place.hidden = !text;
    place.textContent = text;
  };

  document.addEventListener("DOMContentLoaded", () => {
    tellTimes(document);
    announce(document, true);
    setInterval(() => tellTimes(document), MINUTE / 4);
    document.addEventListener("click", closeDialog);
    document.body.addEventListener("htmx:afterSwap", (event) => {
      tellTimes(document);
      announce(document, false);
      if (event.target.id === "dialog-body") showDialog(event.detail.requestConfig.path);
    });
    document.body.addEventListener("htmx:responseError", (event) => {
      if (event.detail.target.id === "dialog-body") location.assign(event.detail.requestConfig.path);
    });
    document.body.addEventListener("htmx:sseMessage", () => {
      tellTimes(document);
      announce(document, false);
    });
    document.body.addEventListener("htmx:sseOpen", () => liveNotice(""));
    document.body.addEventListener("htmx:sseError", () => liveNotice("Live updates are interrupted; trying again."));
    document.body.addEventListener("htmx:sseClose", (event) => {
      if (event.detail.type !== "message" || document.querySelector("[data-final]")) return;
      liveNotice("Live updates are paused in this tab. Reload the page to go on.");
    });
    /* A login that has ended answers a piece of a page with the login page: show that as a page of its own. */
    document.body.addEventListener("htmx:beforeSwap", (event) => {
      const { xhr, requestConfig } = event.detail;
      if (!xhr || !xhr.responseURL) return;
      const asked = new URL(requestConfig.path, location.href).pathname;
      if (new URL(xhr.responseURL).pathname !== asked) {
        event.detail.shouldSwap = false;
        location.reload();
      }
    });
  });
})();
