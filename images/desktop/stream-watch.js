// A network that is gone tells a page nothing: its WebSocket stays open, and is quiet. Selkies' page waits until TCP has
// tried again, and TCP doubles its pauses: after a cut of a minute up to another minute. So we ask when nothing was
// heard, and when there is no answer, tell Selkies' page that its connection is closed: it knocks every few seconds
// from then on, and is back in place, without being loaded again.
(() => {
  const TICK_MS = 1000;
  const ASK = 3; // ticks without a word; not time, of which much passes unseen while a laptop sleeps
  const GIVE_UP = 8; // more than a congested line is late
  const QUESTION = '_gz,1'; // what Selkies' own page says first of all, and its server echoes whenever it is said
  let transport;
  let silent = 0;
  setInterval(() => {
    const now = window.selkiesTransport; // Selkies' WebSocket, which lives in a worker; a new one each time
    if (now !== transport) {
      transport = now;
      silent = 0;
      transport?.addEventListener('message', () => { silent = 0; });
    }
    if (transport?.readyState !== WebSocket.OPEN) return;
    silent += 1;
    if (silent === ASK) transport.send(QUESTION);
    if (silent < GIVE_UP) return;
    console.warn(`[stream-watch] nothing was heard for ${silent} s: connecting anew`);
    const { onclose } = transport;
    transport.onclose = null; // it would be called late, or never
    transport.close();
    onclose?.({ type: 'close', code: 1006, reason: '', wasClean: false });
  }, TICK_MS);
})();
