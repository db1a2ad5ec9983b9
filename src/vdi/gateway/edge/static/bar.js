/* The bar over a desktop, in Selkies' page. It steers Selkies with the messages of Selkies' own side menu. */

const ASK_MS = 30000;
const AGENT_MS = 5000; /* While an agent drives: its line is about now. */
const IDLE_MS = 300000; /* A page without input asks nothing: its requests would keep the login alive. */
const LOST_SECONDS = 10;
const HIDE_MS = 3000;
const STYLE = `
:host {
  --surface: light-dark(#ffffff, #171c23); --sunken: light-dark(#eef0f4, #11161c); --ink: light-dark(#18202b, #e8ecf1);
  --ink-soft: light-dark(#546070, #a5b0be); --line: light-dark(#848e9d, #6b7788); --accent: light-dark(#2450b8, #8cb0ff);
  --accent-strong: light-dark(#2f5bd0, #3f6fe6); --warn: light-dark(#8a5200, #f2bd62);
  all: initial; color-scheme: light dark; position: fixed; inset: 0 0 auto; z-index: 2000; pointer-events: none;
  display: grid; justify-items: center; gap: 4px; color: var(--ink);
  font: 14px/1.4 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
[hidden] { display: none !important; }
.handle, .close, .bar, .panel, .lost { pointer-events: auto; background: var(--surface); color: var(--ink); border: 1px solid var(--line); }
.handle, .close { border-top: 0; border-radius: 0 0 10px 10px; padding: 1px 14px 3px; white-space: nowrap; font: inherit; font-size: 12px; cursor: pointer; touch-action: none; }
.close { position: fixed; top: 0; left: 280px; font-size: 20px; } /* Beside Selkies' side menu. */
.bar { display: flex; flex-wrap: wrap; gap: 2px; align-items: center; justify-content: center; box-sizing: border-box; max-width: 100vw; max-height: 60vh; overflow: auto; padding: 4px 10px; border-top: 0; border-radius: 0 0 10px 10px; }
.bar p { margin: 0 10px 0 0; overflow-wrap: anywhere; }
.soft { color: var(--ink-soft); }
.warn, .asks [data-panel=Agent] { color: var(--warn) !important; }
.asks [data-panel=Agent]::after { content: " \u25cf asks"; }
.panel, .lost { display: grid; gap: 8px; box-sizing: border-box; width: min(24rem, 96vw); max-height: 70vh; overflow: auto; padding: 12px; border-radius: 10px; }
.panel p, .lost p, h2 { margin: 0; font-size: 14px; }
.panel div, .lost div { display: flex; flex-wrap: wrap; gap: 6px; }
a, .bar button, .panel button, .lost button { display: inline-block; padding: 6px 10px; border: 1px solid transparent; border-radius: 7px; background: none; color: var(--accent); font: inherit; font-weight: 600; text-decoration: none; cursor: pointer; }
.panel button, .panel a, .lost button, .lost a { border-color: var(--line); }
a:hover, button:hover, [aria-expanded=true] { background: var(--sunken) !important; }
:focus-visible { outline: 2px solid var(--accent-strong); outline-offset: -2px; }
textarea { box-sizing: border-box; width: 100%; height: 6rem; font: inherit; color: inherit; background: var(--sunken); border: 1px solid var(--line); border-radius: 7px; }
`;

let state;
let open = ""; /* Name of the panel that is open. */
let busy = "";
let declined; /* The size in the memory offer that the owner does not want. */
let font;
let lastInput = Date.now();
let lastAsk = Date.now();
let isReached = true; /* The gateway answered last time. */
const known = { audio: true, microphone: false, text: "" };

const make = (tag, { on, ...attributes } = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  if (on) node.addEventListener("click", on);
  node.append(...children.filter((child) => child || child === 0));
  return node;
};
const button = (label, on, more = {}) => make("button", { type: "button", on, ...more }, label);
const link = (label, href) => make("a", { href, target: "_blank", rel: "noopener", on: () => show("") }, label);
const text = (words, kind = "") => make("p", { class: kind }, words);
const row = (...children) => make("div", {}, ...children);

const PLACE = "vdi-bar-place"; /* The handle's distance from the middle, in parts of the window's width. */
let part = Number(localStorage.getItem(PLACE)) || 0;
/* Percentages are of the handle's own width: both of its ends stay in the window, also when either changes. */
const place = () => { handle.style.translate = `clamp(50% - 50vw, ${part * 100}vw, 50vw - 50%)`; };
let dragged = null; /* Where the drag of the handle began, and how far it has come. */
const drag = ({ type, clientX, pointerId, buttons }) => {
  if (type === "pointercancel" || (type === "pointermove" && !buttons)) dragged = null;
  if (type === "pointerdown") {
    const { left: edge, width } = handle.getBoundingClientRect();
    dragged = { from: clientX - (edge + width / 2 - innerWidth / 2), at: clientX, moved: false };
    handle.setPointerCapture(pointerId);
  } else if (dragged && (dragged.moved ||= Math.abs(clientX - dragged.at) > 4)) {
    part = (clientX - dragged.from) / innerWidth;
    place();
    if (type === "pointerup") localStorage.setItem(PLACE, String(part));
  }
};

const host = make("div", { id: "vdi-bar", class: "allow-native-input" }); /* Selkies leaves keys in such elements alone. */
const root = host.attachShadow({ mode: "open" });
const handle = button("Menu", () => { if (!dragged?.moved) toggle(); dragged = null; }, { class: "handle", "aria-expanded": "false", "aria-controls": "bar" });
const bar = make("div", { id: "bar", class: "bar", role: "toolbar", hidden: true });
const panel = make("section", { id: "panel", class: "panel", hidden: true });
const left = make("span", { class: "soft" });
const lines = make("p", { class: "soft" }); /* What the handle says in short. */
const asked = make("div", { class: "lost", role: "alert", "data-request": "", hidden: true });
const closeAdvanced = button("\u00d7", () => { flipAdvanced(); handle.focus(); }, { class: "close", "aria-label": "Close the advanced settings", hidden: true });
const told = make("div", { class: "lost", role: "status", "data-messages": "", hidden: true });
const lost = make("div", { class: "lost", role: "alert", hidden: true });
const memory = make("div", { class: "lost", role: "status", hidden: true });

const selkies = (message) => window.postMessage(message, location.origin);
const flipAdvanced = () => selkies({ type: "toggleDashboard", advanced: true }); /* Selkies' side menu. */
const input = () => window.webrtcInput; /* Selkies' keyboard and pointer, over either transport. */
/* The template's setting: not one of the values that switch the feature off. A guest who only watches has none. */
const has = (field, ...off) => !state.viewOnly && !off.includes(state.streaming?.[field]);
const may = (action) => state.actions.includes(action);
const page = (rest) => `${state.portal}/desktops/${encodeURIComponent(state.name)}${rest}`;
const clock = (instant) => {
  const end = new Date(instant);
  const day = end - Date.now() > 72e6 ? { weekday: "short", day: "numeric", month: "short" } : {};
  return end.toLocaleString([], { hour: "2-digit", minute: "2-digit", ...day });
};
const span = (minutes) => minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
const minutesTo = (instant) => Math.floor((new Date(instant) - Date.now()) / 60000);
const timeLeft = () => {
  const minutes = minutesTo(state.expires);
  return !state.expires || minutes < 0 ? "" : `${span(minutes)} left`;
};

const change = async (action, query = "") => {
  busy = { suspend: "Suspending.", restart: "Restarting." }[action] ?? "";
  try {
    const answer = await fetch(`/.vdi/${action}${query}`, { method: "POST", headers: { "X-VDI-Bar": "1" } });
    if (!answer.ok) throw new Error((await answer.text()).trim());
  } catch (error) {
    busy = "";
    (action === "resize" ? memory : panel).append(text(error.message, "warn"));
    return;
  }
  show("");
  await ask();
  if (!busy) setTimeout(ask, 2000); /* The operator has written the new end, size or recording by then. */
  /* The waiting page opens a desktop that still runs at once, so it is shown when the old one has ended. */
  for (let tries = 0; busy && state.running && tries < 30; tries++) {
    handle.textContent = busy;
    await new Promise((done) => setTimeout(done, 1000));
    await ask();
  }
  if (busy) location.replace("/.vdi/wait");
};

/* Until the share ends, within what can be asked for. */
const controlLength = () => `${Math.max(1, Math.min(480, state.accessEnds ? minutesTo(state.accessEnds) : 480))}m`;
const sure = (action, words, label) => [text(words), row(button(label, () => change(action)))];
const flip = (pipeline, label) => button(`${label}: ${known[pipeline] ? "on" : "off"}`, () => {
  known[pipeline] = !known[pipeline];
  selkies({ type: "pipelineControl", pipeline, enabled: known[pipeline] });
  show("Sound");
}, { "aria-pressed": String(known[pipeline]) });

const clipboard = () => {
  const box = make("textarea", { "aria-label": "Clipboard of the desktop" });
  box.value = known.text;
  const send = button("Send to the desktop", () => selkies({ type: "clipboardUpdateFromUI", text: box.value }));
  return [text("The desktop copied this last. Copy it from here, or write what the desktop pastes next."), box, row(send)];
};

/* Each panel: whether it is offered, and its content. */
const PANELS = {
  Extend: [() => state.extensions.length, () => [row(...state.extensions.map(({ value, words }) =>
    button(words, () => change("extend", `?timeout=${encodeURIComponent(value)}`))))]],
  Files: [() => has("fileTransfer", "None", "Download") || has("fileTransfer", "None", "Upload"), () => [row(
    has("fileTransfer", "None", "Download") && button("Upload", () => window.dispatchEvent(new CustomEvent("requestFileUpload"))),
    may("browse") && link("All files", page("/files")),
  )]],
  Clipboard: [() => has("clipboard", "None"), clipboard],
  Screen: [() => true, () => [row(
    button("Full screen", () => selkies({ type: "requestFullscreen" })),
    has("resize", false) && button("Size of this window", () => selkies({ type: "resetResolutionToWindow" })),
    has("resize", false) && button("1920 × 1080", () => selkies({ type: "setManualResolution", width: 1920, height: 1080 })),
  )]],
  Sound: [() => state.streaming?.audio !== false, () => [row(flip("audio", "Sound"), has("microphone", false) && flip("microphone", "Microphone"))]],
  Keyboard: [() => !state.viewOnly, () => [row(button("On-screen keyboard", () => {
    toggle(false); /* A tap beside the bar, which closes it, would close the keyboard too. */
    document.getElementById("keyboard-input-assist")?.focus(); /* iOS shows it within the tap alone: a message is later. */
    selkies({ type: "showVirtualKeyboard" });
  })), text("Ctrl+Shift+M opens this bar, Ctrl+Shift+F the full screen.", "soft")]],
  Control: [() => state.viewOnly && may("request-access"), () => [
    text(`${state.owner} is asked over the desktop, and has a minute to answer.`),
    row(button("Ask for control", () => change("request-access", `?role=collaborator&length=${controlLength()}`)))]],
  Share: [() => may("share"), () => [
    text(state.watching === null ? "It is not known who is watching now." : state.watching.length ? "Watching now:" : "No one else is watching now."),
    ...(state.watching ?? []).map((guest) => text(guest)),
    ...state.guests.map((guest) => row(button(`End access of ${guest}`, () => change("unshare", `?user=${encodeURIComponent(guest)}`)))), row(link("Share, or end a share", page("#share")))]],
  Agent: [() => may("drive"), () => [text(state.driver?.line ?? "No agent drives this desktop now"), row(
    state.driver && state.driver.state !== "Agent"
      ? button("Give back", () => change("drive", "?human=false")) : button("Take over", () => change("drive", "?human=true")))]],
  Recording: [() => may("record"), () => [text(state.recording), row(button(state.recorded ? "End the recording" : "Record",
    () => change("record", state.recorded ? "?on=false" : "?on=true")))]],
  Suspend: [() => may("suspend"), () => sure("suspend", "Programs are closed. Files in a kept home stay. Save your work first.", "Suspend now")],
  Restart: [() => may("restart"), () => sure("restart", "Programs are closed, and the desktop starts again. Save your work first.", "Restart now")],
};

const fill = () => panel.replaceChildren(...(open ? [make("h2", {}, open), ...PANELS[open][1]()] : []));

const show = (name) => {
  const opener = root.activeElement?.closest(".panel") ? open : "";
  open = name;
  panel.hidden = !name;
  panel.setAttribute("aria-label", name);
  fill();
  if (name === "Share") ask(); /* Somebody may have shared it in the portal. */
  for (const one of bar.querySelectorAll("[data-panel]")) one.setAttribute("aria-expanded", String(one.dataset.panel === name));
  if (opener && !bar.hidden) bar.querySelector(`[data-panel="${opener}"]`)?.focus();
};

const REFUSED = "Your browser did not let this page read the clipboard, so an older text was pasted. Use Menu, Clipboard, or allow the clipboard for this site.";
let isClipboardRefused = false;
/* Selkies reads the clipboard when its window gets the focus. Where Chromium refuses that, the desktop pastes what it
   had before. Other browsers have no such permission: they give the text with the key that pastes. */
const watchClipboard = async () => {
  const permission = await navigator.permissions?.query({ name: "clipboard-read" }).catch(() => null);
  if (!permission) return;
  addEventListener("keydown", ({ code, ctrlKey, metaKey, shiftKey, target }) => {
    const isPaste = (code === "KeyV" && (ctrlKey || metaKey)) || (code === "Insert" && shiftKey);
    if (!isPaste || target === host || permission.state === "granted" || !has("clipboard", "None", "Out")) return;
    isClipboardRefused = true;
    drawMessages();
  }, true);
  permission.addEventListener("change", () => {
    if (permission.state !== "granted") return;
    isClipboardRefused = false;
    drawMessages();
    dispatchEvent(new Event("focus"));
  });
};

const CLOSED = "vdi-closed"; /* Messages that were closed in this tab. */
const drawMessages = () => {
  const closed = sessionStorage.getItem(CLOSED)?.split("\n") ?? [];
  const now = state.messages.filter((message) => !closed.includes(message));
  if (isClipboardRefused) now.push(REFUSED);
  if (told.dataset.messages === now.join("\n")) return; /* Buttons stay where somebody is about to press one. */
  told.dataset.messages = now.join("\n");
  told.hidden = !now.length;
  const close = () => {
    sessionStorage.setItem(CLOSED, state.messages.join("\n"));
    isClipboardRefused = false;
    drawMessages();
  };
  told.replaceChildren(...now.map((message) => text(localTimes(message), "warn")), row(button("Close", close)));
};

const MAY = { viewer: "watch", collaborator: "watch and control" };
const drawRequest = () => {
  const { request } = state;
  if (asked.dataset.request === (request?.expires ?? "")) return; /* Buttons stay where somebody is about to press one. */
  asked.dataset.request = request?.expires ?? "";
  asked.hidden = !request;
  const answer = (allow) => () => change("answer-access", `?request=${encodeURIComponent(request.expires)}&allow=${allow}`);
  asked.replaceChildren(...(request ? [
    text(`${request.user} asks to ${MAY[request.role] ?? `have the role ${request.role} in`} this desktop for ${request.length}. You can end it at any time, in Menu, Share.`),
    row(button("Allow", answer(true)), button("Refuse", answer(false))),
  ] : []));
};

const offerMemory = () => {
  const [words, size, label] = state.memory ?? [];
  const isOffered = Boolean(words) && size !== declined;
  if (isOffered === !memory.hidden) return; /* Buttons stay where somebody is about to press one. */
  memory.hidden = !isOffered;
  memory.replaceChildren(...(isOffered ? [text(words, "warn"), row(
    size && button(label, () => change("resize", `?memory=${size}`)),
    button("Not now", () => { declined = size; offerMemory(); }),
  )] : []));
};

const DRIVES = { Agent: "Agent drives", Parked: "Agent asks", Human: "Agent waits" };
/* Messages of the operator have times such as `16:05 UTC`: the nearest is meant. */
const localTimes = (words, isLive = false) => words.replace(/\b(\d\d):(\d\d) UTC/g, (_, hour, minute) => {
  const time = new Date();
  time.setUTCHours(hour, minute, 0, 0);
  const days = Math.round((Date.now() - time) / 864e5);
  const instant = time.getTime() + days * 864e5;
  const ahead = minutesTo(instant);
  return isLive && ahead >= 0 ? `${clock(instant)} (in ${span(ahead)})` : clock(instant);
});

const LONGEST = 30;
const shorten = (words, kept = words.length) => {
  const rest = words.length - kept;
  const label = ["Menu", ...words.slice(0, kept)].join(" \u00b7 ") + (rest ? ` +${rest}` : "");
  return label.length > LONGEST && kept ? shorten(words, kept - 1) : label;
};

/* The toolbar is one stop of the Tab key: the button that had the focus last. */
const rove = (stop) => { for (const one of bar.querySelectorAll("button, a")) one.tabIndex = one === stop ? 0 : -1; };

const draw = () => {
  drawRequest();
  offerMemory();
  drawMessages();
  const until = state.accessEnds ? `${state.viewOnly ? "," : ""} until ${clock(state.accessEnds)}` : "";
  const guest = state.viewOnly ? `You are watching ${state.owner}'s desktop, view only` : `You have full control of ${state.owner}'s desktop`;
  const notices = state.owner ? [] : state.notices.map((notice) => localTimes(notice, true));
  const driver = state.driver && [DRIVES[state.driver.state], state.driver.line];
  const isAsked = state.driver?.state === "Parked";
  const facts = [ /* The word for the handle, and the line for the open bar; the most important first. */
    state.recorded && ["\u25cf Rec", "Recorded."],
    isAsked && driver,
    ...notices.map((notice) => ["!", notice]),
    state.watching?.length && [`${state.watching.length} watching`, `Watching: ${state.watching.join(", ")}`],
    state.owner && [state.viewOnly ? "View only" : "Full control", `${guest}${until}`],
    !isAsked && driver,
  ].filter(Boolean);
  handle.textContent = shorten([...new Set(facts.map(([word]) => word))]);
  handle.title = facts.map(([, line]) => line).join("\n");
  lines.replaceChildren(...facts.flatMap(([, line]) => [line, make("br")]));
  lines.hidden = !facts.length;
  const isWarned = notices.length > 0 || isAsked;
  for (const one of [handle, lines]) one.classList.toggle("warn", isWarned);
  left.textContent = timeLeft();
  document.title = state.name;
  bar.setAttribute("aria-label", `Desktop ${state.name}`);
  /* Guests come and go. */
  if (open === "Share" && !root.activeElement?.closest(".panel")) fill();
  bar.classList.toggle("asks", isAsked);
  if (root.activeElement?.closest(".bar")) return; /* Buttons stay where somebody is about to press one. */
  bar.replaceChildren(
    make("p", {}, make("strong", {}, state.name), " ", left), lines,
    ...Object.entries(PANELS).filter(([, [offered]]) => offered()).map(([name]) =>
      button(name, () => show(open === name ? "" : name), { "data-panel": name, "aria-expanded": String(open === name), "aria-controls": "panel" })),
    ...(state.viewOnly ? [] : [button("Advanced", () => { toggle(false); flipAdvanced(); })]),
    make("a", { href: `${state.portal}/` }, "Portal"),
  );
  rove(bar.querySelector("button, a"));
};

const toggle = (wanted = bar.hidden) => {
  bar.hidden = !wanted;
  handle.setAttribute("aria-expanded", String(wanted));
  show("");
  if (wanted) {
    input()?.resetKeyboard?.(); /* Keys that are down now are released here, and not in the desktop. */
    /* Only now, so that it costs the desktop's first picture nothing; the waiting page has mostly loaded it. */
    font ??= new FontFace("Inter", `url(${state.font})`, { weight: "400 700" }).load().then((face) => document.fonts.add(face), () => {});
    draw();
    bar.querySelector("button, a").focus();
    ask();
  } else if (root.activeElement) {
    root.activeElement.blur();
    document.getElementById("overlayInput")?.focus();
  }
};

const ask = async () => {
  lastAsk = Date.now();
  const answer = await fetch("/.vdi/bar", { cache: "no-store" }).catch(() => null);
  isReached = Boolean(answer?.headers.has("X-VDI-Gateway")); /* Traefik answers without it while the gateway is away. */
  if (isReached && answer.ok) state = await answer.json();
  else if (isReached && [401, 404].includes(answer.status)) state = { ...state, running: false };
  draw();
};

/* Events of the gateway tell at once who comes to watch, also a page without input; a refused stream is tried again. */
let events;
const follow = () => {
  if (events && events.readyState !== EventSource.CLOSED) return;
  let isFirst = true;
  events = new EventSource("/.vdi/presence");
  events.addEventListener("presence", ({ data }) => {
    state.watching = JSON.parse(data);
    draw();
    if (!isFirst && Date.now() - lastInput < IDLE_MS) ask();
    isFirst = false;
  });
};

const AWAY = "You are offline, or the portal cannot be reached. Your desktop goes on. The picture returns by itself.";
const watchStream = () => {
  const isLost = !busy && (window.vdiUnheard ?? 0) >= LOST_SECONDS;
  if (isLost && !state.running) location.replace("/.vdi/wait");
  const isAway = !navigator.onLine || !isReached;
  const why = isAway ? AWAY : `The desktop does not respond. ${state.memory?.[0] ?? "It may be your network: the picture returns by itself."}`;
  document.documentElement.classList.toggle("vdi-lost", isLost);
  if (isLost && (lost.hidden || Date.now() - lastAsk >= AGENT_MS)) ask();
  if (isLost === !lost.hidden && (!isLost || lost.dataset.why === why)) return;
  lost.hidden = !isLost;
  lost.dataset.why = why;
  lost.replaceChildren(...(isLost ? [
    text(why),
    !isAway && row(may("restart") && button("Restart", () => show("Restart")), make("a", { href: `${state.portal}/` }, "Portal")),
  ].filter(Boolean) : []));
};

const onKey = (event) => {
  if (event.key === "Escape" && !closeAdvanced.hidden) {
    event.stopImmediatePropagation();
    closeAdvanced.click();
    return;
  }
  if (event.key === "Escape" && (root.activeElement || !bar.hidden)) {
    event.stopImmediatePropagation();
    if (open) show("");
    else toggle(false);
    return;
  }
  if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key) && root.activeElement?.closest(".bar")) {
    const buttons = [...bar.querySelectorAll("button, a")];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step ? buttons.indexOf(root.activeElement) + step : { Home: 0, End: -1 }[event.key];
    event.preventDefault();
    buttons.at(next % buttons.length).focus();
  }
  const isOurs = event.ctrlKey && event.shiftKey && event.code === "KeyM" && !event.defaultPrevented;
  if (!isOurs || input()?.gamingMode || input()?.shortcutsEnabled === false) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  toggle();
};

const onMessage = (event) => {
  if (event.source !== window || event.origin !== location.origin || !event.data) return;
  const { type, text: copied } = event.data;
  if (type === "clipboardContentUpdate" && typeof copied === "string") known.text = copied;
  else if (type === "sidebarVisibilityChanged") {
    closeAdvanced.hidden = !event.data.isOpen;
    if (event.data.isOpen) closeAdvanced.focus();
  } else if (type === "pipelineStatusUpdate") {
    for (const name of ["audio", "microphone"]) known[name] = event.data[name] ?? known[name];
  }
};

export const start = (first) => {
  state = first;
  root.append(make("style", {}, STYLE + state.colours), bar, handle, closeAdvanced, asked, told, panel, lost, memory);
  document.head.append(make("style", {}, ".toggle-handle, .virtual-keyboard-button, .vdi-lost #status-display { display: none !important; } .sidebar:not(.is-open) { visibility: hidden; }")); /* Selkies' own. */
  place();
  bar.addEventListener("focusin", ({ target }) => rove(target));
  for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) handle.addEventListener(name, drag);
  document.body.append(host);
  draw();
  let hiding;
  host.addEventListener("pointerenter", () => clearTimeout(hiding));
  host.addEventListener("pointerleave", ({ pointerType }) => {
    if (pointerType === "mouse") hiding = setTimeout(() => open || bar.hidden || toggle(false), HIDE_MS);
  });
  addEventListener("keydown", onKey, true);
  addEventListener("message", onMessage);
  window.vdiMenu = () => toggle();
  for (const name of ["pointerdown", "pointermove", "keydown"]) {
    addEventListener(name, (event) => {
      const idle = Date.now() - lastInput > IDLE_MS;
      lastInput = Date.now();
      if (idle) ask();
      if (name === "pointerdown" && event.target !== host && !bar.hidden) toggle(false);
    }, { capture: true, passive: true });
  }
  setInterval(() => {
    const pause = state.driver ? AGENT_MS : ASK_MS;
    const isDue = Date.now() - lastAsk >= pause - 500;
    if (isDue && !document.hidden && Date.now() - lastInput < IDLE_MS) ask();
  }, AGENT_MS);
  watchClipboard();
  follow();
  setInterval(follow, ASK_MS);
  setInterval(watchStream, 1000);
};
