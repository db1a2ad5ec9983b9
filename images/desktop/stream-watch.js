// What Selkies' page does not notice by itself.
(() => {
  let transport; // Selkies' WebSocket, which lives in a worker; a new one for each connection
  let silent = 0;
  let blank = 0; // ticks of a connection without a picture
  Object.defineProperty(window, 'selkiesTransport', {
    get: () => transport,
    set: (now) => {
      transport = now;
      silent = blank = 0;
      if (!now) return;
      now.addEventListener('message', () => { silent = window.vdiUnheard = 0; });
      makeUpForReset(now);
    },
  });

  // A network that is gone tells a page nothing: its WebSocket stays open, and is quiet. Selkies' page waits until TCP
  // has tried again, and TCP doubles its pauses: after a cut of a minute up to another minute. So we ask when nothing was
  // heard, and when there is no answer, tell Selkies' page that its connection is closed: it knocks every few seconds
  // from then on, and is back in place, without being loaded again.
  const TICK_MS = 1000;
  const ASK = 3; // ticks without a word; not time, of which much passes unseen while a laptop sleeps
  const GIVE_UP = 8; // more than a congested line is late
  const NO_PICTURE = 5; // ticks with words and no picture; then 10, 20, 40: a slow one starts over each time
  const QUESTION = '_gz,1'; // what Selkies' own page says first of all, and its server echoes whenever it is said
  setInterval(() => {
    // Seconds since the desktop was heard last, for the bar; a page that has never heard it has none.
    if (window.vdiUnheard !== undefined) window.vdiUnheard += 1;
    if (transport?.readyState !== WebSocket.OPEN) return;
    // Selkies starts the stream for a guest whose page is back first, and has told the owner's page that there is none:
    // that page throws every picture away until it hears otherwise.
    blank = document.querySelector('#status-display.hidden') ? 0 : blank + 1;
    if (Number.isInteger(Math.log2(blank / NO_PICTURE))) transport.send('START_VIDEO');
    silent += 1;
    if (silent === ASK) transport.send(QUESTION);
    if (silent < GIVE_UP) return;
    console.warn(`[stream-watch] nothing was heard for ${silent} s: connecting again`);
    const { onclose } = transport;
    transport.onclose = null; // it would be called late, or never
    transport.close();
    onclose?.({ type: 'close', code: 1006, reason: '', wasClean: false });
  }, TICK_MS);

  // When a stream begins again the page gets a text message and throws its decoder away. Words wait until packed ones
  // before them are unpacked, pictures do not: on a slow machine the page throws away what has begun already, and the
  // next picture that can be shown without those comes when the screen changes much later. So we ask for one.
  const APART_MS = 300; // Selkies takes no two such requests within 250 ms
  const AGAIN_MS = 1100; // and of a page that does not own the display no two within a second
  let asked = -APART_MS;
  function makeUpForReset(connection) {
    const forget = connection.resetVideoAck; // what the page calls when it throws its decoder away, and only then
    connection.resetVideoAck = () => {
      forget.call(connection);
      const wait = Math.max(0, asked + APART_MS - performance.now());
      asked = performance.now() + wait;
      setTimeout(() => connection.send('REQUEST_KEYFRAME'), wait);
      // Again, since that one is lost when Selkies' own page, or another one, has asked a moment before.
      setTimeout(() => connection.send('REQUEST_KEYFRAME'), wait + AGAIN_MS);
    };
  }
})();

// The waiting page fades into the first picture: its colour covers Selkies' empty page until Selkies hides its status.
(() => {
  const LONGEST_MS = 8000; // after which the status is worth reading
  const FADE_MS = 200;
  const cover = document.createElement('div');
  cover.id = 'vdi-cover';
  cover.style.cssText = 'position:fixed;inset:0;z-index:2147483000;pointer-events:none;color-scheme:light dark;background:light-dark(#f6f7f9,#0f1318)';
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) cover.style.transition = `opacity ${FADE_MS}ms`;
  document.documentElement.append(cover);
  const began = performance.now();
  const look = () => {
    if (!document.querySelector('#status-display.hidden') && performance.now() - began < LONGEST_MS) return requestAnimationFrame(look);
    cover.style.opacity = 0;
    setTimeout(() => cover.remove(), FADE_MS);
  };
  look();
})();

// Selkies' shortcut opens our bar instead of its side menu, which the bar opens by `advanced`. This listener has to be
// there before Selkies' own.
addEventListener('message', (event) => {
  if (event.data?.type !== 'toggleDashboard' || event.data.advanced || !window.vdiMenu) return;
  event.stopImmediatePropagation();
  window.vdiMenu();
});

// The bar, which the gateway serves. Without a gateway there is none; one that is away for a moment is asked again.
addEventListener('load', async function show() {
  const AGAIN_MS = 10000;
  const answer = await fetch('/.vdi/bar', { cache: 'no-store' }).catch(() => null);
  if (answer?.ok && answer.headers.has('X-VDI-Gateway')) {
    const state = await answer.json();
    (await import(state.script)).start(state);
  } else if (!answer || answer.status >= 500) setTimeout(show, AGAIN_MS);
});
