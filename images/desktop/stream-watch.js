// What Selkies' page does not notice by itself.
(() => {
  let transport; // Selkies' WebSocket, which lives in a worker; a new one for each connection
  let silent = 0;
  Object.defineProperty(window, 'selkiesTransport', {
    get: () => transport,
    set: (now) => {
      transport = now;
      silent = 0;
      if (!now) return;
      now.addEventListener('message', () => { silent = 0; });
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
  const QUESTION = '_gz,1'; // what Selkies' own page says first of all, and its server echoes whenever it is said
  setInterval(() => {
    if (transport?.readyState !== WebSocket.OPEN) return;
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
