"use strict";
/* What the portal adds where scripts run: confirmations in place, announcements, live notices, the time zone. */

(() => {
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

  const SIGNED_OUT = "You are signed out. Reload the page to sign in.";

  const liveNotice = (text) => {
    const place = document.getElementById("live-notice");
    if (!place) return;
    place.hidden = !text;
    if (place.textContent !== text) place.textContent = text;
  };

  /* A browser that reconnects sends what the page shows as `Last-Event-ID`. After an error such as 503 it does not
     reconnect: the extension opens a new stream at this address. */
  const updateSeen = (element, mark) => {
    const stream = element.closest("[sse-connect]");
    const address = stream.getAttribute("sse-connect");
    if (mark) stream.setAttribute("sse-connect", address.replace(/seen=[^&]*$/, `seen=${mark}`));
  };

  /* Without a login, each page redirects to the login page. */
  const isSignedOut = async () => {
    const page = { method: "HEAD", redirect: "manual", headers: { Accept: "text/html" } };
    try {
      return (await fetch(location.pathname, page)).type === "opaqueredirect";
    } catch {
      return false;
    }
  };

  const explainInterruption = async (stream) => {
    if (document.getElementById("live-notice")?.textContent !== SIGNED_OUT) {
      liveNotice("Live updates are interrupted. Reconnecting.");
    }
    if (stream.readyState === EventSource.CLOSED && (await isSignedOut())) liveNotice(SIGNED_OUT);
  };

  /* ---- small pictures of running desktops: while the page is visible, and never kept --------------------------- */

  const MINUTE = 60000;
  const PACE = MINUTE / 2;
  const LONGEST_PACE = 10 * MINUTE;
  const pictures = new Map();
  let lookAgain = 0;

  /* Cards are replaced as they change; their picture stays. Without one there is no empty frame. */
  const showPicture = (place) => {
    const { image, failures } = pictures.get(place.dataset.thumbnail) ?? { image: null, failures: 0 };
    if (image && image.parentElement !== place) {
      place.querySelector("img")?.remove();
      place.append(image);
    }
    place.hidden = !image && failures > 0;
  };

  const takePicture = (path) => {
    const picture = pictures.get(path);
    const image = new Image();
    const arrived = (ok) => {
      if (ok || picture.failures) picture.image = ok ? image : null;
      picture.failures = ok ? 0 : picture.failures + 1;
      picture.due = Date.now() + Math.min(PACE * 2 ** picture.failures, LONGEST_PACE);
      document.querySelectorAll(`[data-thumbnail="${CSS.escape(path)}"]`).forEach(showPicture);
    };
    image.alt = "";
    image.addEventListener("load", () => arrived(true));
    image.addEventListener("error", () => arrived(false));
    picture.due = Infinity;
    image.src = `${path}?at=${Date.now()}`;
  };

  const lookAtDesktops = () => {
    clearTimeout(lookAgain);
    const places = [...document.querySelectorAll("[data-thumbnail]")];
    const shown = new Set(places.map((place) => place.dataset.thumbnail));
    [...pictures.keys()].filter((path) => !shown.has(path)).forEach((path) => pictures.delete(path));
    for (const place of places) {
      const path = place.dataset.thumbnail;
      if (!pictures.has(path)) pictures.set(path, { image: null, failures: 0, due: 0 });
      showPicture(place);
      if (!document.hidden && pictures.get(path).due <= Date.now()) takePicture(path);
    }
    if (places.length && !document.hidden) lookAgain = setTimeout(lookAtDesktops, PACE / 10);
  };

  /* ---- the time zone of a form is the browser's, unless a person has typed another ------------------------------ */

  const guessTimeZone = () => {
    document.querySelectorAll("[data-guess-time-zone]").forEach((field) => {
      if (field.value === field.defaultValue) field.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
    });
    const choices = (document.getElementById("time-zones") && Intl.supportedValuesOf?.("timeZone")) || [];
    for (const zone of choices) {
      const option = document.createElement("option");
      option.value = zone;
      document.getElementById("time-zones").append(option);
    }
  };

  /* ---- uploads: one request for each file, whose body is the file ---------------------------------------------------- */

  const upload = async (form, files) => {
    const [bar, error, folder] = [...form.querySelectorAll("progress, .error"), form.getAttribute("action")];
    if (!files.length || !bar.hidden) return; // the end of one upload loads the page again, which would end another
    const headers = { "Content-Type": "application/octet-stream", "X-CSRF-Token": form.elements.csrf.value };
    [bar.hidden, error.hidden] = [false, true];
    document.querySelector(".notice.good")?.remove(); // of the upload before
    for (const body of files) {
      const answer = await fetch(folder + encodeURIComponent(body.name), { method: "POST", headers, body }).catch(() => null);
      if (answer?.status === 201) continue;
      error.textContent = answer ? await answer.text() : `${body.name}: the upload was interrupted.`;
      [bar.hidden, error.hidden] = [true, false];
      return;
    }
    const name = files.length === 1 ? files[0].name : `${files.length} files`;
    location.assign(`${folder}&done=upload&name=${encodeURIComponent(name)}`);
  };

  const acceptUploads = (form) => {
    for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
    form.addEventListener("change", (event) => upload(form, event.target.files));
    document.addEventListener("drop", (event) => upload(form, event.dataTransfer.files));
  };

  /* ---- a form is sent once, however often its button is pressed --------------------------------------------------- */

  let sent = new WeakSet();

  /* The button is not disabled, or its value would not be sent. htmx prevents the default for the forms it handles. */
  const sendOnce = (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    if (sent.has(event.target)) event.preventDefault();
    sent.add(event.target);
  };

  document.addEventListener("submit", sendOnce);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) sent = new WeakSet();
  });

  document.addEventListener("DOMContentLoaded", () => {
    announce(document, true);
    guessTimeZone();
    lookAtDesktops();
    document.querySelectorAll("form[data-upload]").forEach(acceptUploads);
    document.addEventListener("visibilitychange", lookAtDesktops);
    document.addEventListener("click", closeDialog);
    document.addEventListener("change", ({ target }) => {
      if (!target.matches("[data-choose-all]")) return;
      for (const box of document.querySelectorAll("input[form=bulk][type=checkbox]")) box.checked = target.checked;
    });
    document.body.addEventListener("htmx:afterSwap", (event) => {
      announce(document, false);
      if (event.target.id === "dialog-body") showDialog(event.detail.requestConfig.path);
    });
    document.body.addEventListener("htmx:responseError", (event) => {
      if (event.detail.target.id === "dialog-body") location.assign(event.detail.requestConfig.path);
    });
    let opened = []; /* What a person has opened stays open when its part of the page is drawn again. */
    document.body.addEventListener("htmx:sseBeforeMessage", ({ target }) => {
      opened = [...target.querySelectorAll("details[open]")].map((details) => details.id);
    });
    document.body.addEventListener("htmx:sseMessage", (event) => {
      for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
      updateSeen(event.target, event.detail.lastEventId);
      announce(document, false);
      lookAtDesktops();
    });
    document.body.addEventListener("htmx:sseOpen", () => liveNotice(""));
    document.body.addEventListener("htmx:sseError", (event) => explainInterruption(event.detail.source));
    document.body.addEventListener("htmx:sseClose", (event) => {
      if (event.detail.type !== "message" || document.querySelector("[data-final]")) return;
      liveNotice("Live updates are paused in this tab. Reload the page to continue.");
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
