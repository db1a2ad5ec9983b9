"use strict";
/* Which way the picture takes: over WebRTC if this browser gets a relay from the TURN server, else over WebSocket. */

(() => {
  const RELAY_MILLISECONDS = 4000;
  const READ_MILLISECONDS = 5000;
  const page = document.getElementById("transport");
  const maySwitch = page.dataset.maySwitch === "yes";

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  const say = (what) => {
    for (const one of page.querySelectorAll("[data-says]")) one.hidden = one.dataset.says !== what;
  };

  const enter = () => location.replace(page.dataset.page);

  const request = (path, more) => fetch(path, { cache: "no-store", redirect: "manual", ...more });

  const isOurs = (answer) => answer.headers.has("X-VDI-Gateway");

  /* What the desktop answers; null: it does not, or the gateway did in its place, as `refused` hears. */
  const ask = async (path, more, refused) => {
    try {
      const answer = await request(path, more);
      if (isOurs(answer)) await refused?.(answer.status);
      return answer.ok && !isOurs(answer) ? await answer.json() : null;
    } catch {
      return null;
    }
  };

  /* Access has ended (401), or the desktop does not run (503): the waiting page says so, and opens it again. A gateway
     without its database answers 503 too, but its answer in place of that page has no mark: see wait.js. */
  const leave = async (status) => {
    if (status !== 401 && status !== 503) return;
    const answer = await request(page.dataset.waits);
    if (answer.type !== "opaqueredirect" && !isOurs(answer)) return;
    location.replace(page.dataset.waits);
    await new Promise(() => {});
  };

  const mode = async () => (await ask("/api/status", {}, leave))?.current_mode;

  const modeOnceItAnswers = async () => {
    for (let wait = 150; ; wait = Math.min(wait * 1.4, 2000)) {
      const found = await mode();
      if (found) return found;
      await pause(wait);
    }
  };

  /* A relay of its own is all that a browser needs: the TURN server reaches the desktop for it. */
  const hasRelay = async () => {
    const servers = (await ask("/api/turn"))?.iceServers ?? [];
    if (!servers.length || typeof RTCPeerConnection !== "function") return false;
    const connection = new RTCPeerConnection({ iceServers: servers, iceTransportPolicy: "relay" });
    try {
      return await new Promise((decide) => {
        setTimeout(() => decide(false), RELAY_MILLISECONDS);
        connection.onicecandidate = ({ candidate }) => {
          if (candidate?.type === "relay") decide(true);
          if (!candidate?.candidate) decide(false);
        };
        connection.createDataChannel("way");
        connection.setLocalDescription().catch(() => decide(false));
      });
    } finally {
      connection.close();
    }
  };

  /* The desktop's transport is one for all who are in it. It may not know of this way in yet: so three times. */
  const switchTo = async (wanted) => {
    const body = JSON.stringify({ mode: wanted });
    for (let tries = 0; tries < 3; tries++) {
      if (await ask("/api/switch", { method: "POST", headers: { "Content-Type": "application/json" }, body })) return true;
      await pause(500);
    }
    return false;
  };

  /* Only the owner gets an answer: for everybody else the desktop counts as in use. */
  const isEmpty = async () => (await ask("/api/sessions"))?.sessions?.length === 0;

  const wayOverWebRTC = async (relay) => {
    if (await relay) {
      enter();
      return;
    }
    if (maySwitch && (await switchTo("websockets"))) {
      say("websocket");
      await pause(READ_MILLISECONDS);
      enter();
      return;
    }
    say("stuck");
    while ((await mode()) !== "websockets") await pause(2000);
    enter();
  };

  const choose = async () => {
    const relay = hasRelay();
    if ((await modeOnceItAnswers()) === "webrtc") {
      await wayOverWebRTC(relay);
      return;
    }
    /* Somebody needed WebSocket once. An owner who comes when no one is left may have WebRTC again. */
    if (maySwitch && (await isEmpty()) && (await relay)) await switchTo("webrtc");
    enter();
  };

  choose();
})();
