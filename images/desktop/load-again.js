// In the page itself, before the parts that it loads: a part that is refused, as while a desktop comes or goes, would
// leave an empty page for good. The page is loaded again instead, later each time; the gateway then shows the desktop,
// or its waiting page. While neither answers, this page stays and says so: the next one would be empty, without a script.
(() => {
  const KEY = 'vdi-load-again';
  const SHORTEST = 1000;
  const LONGEST = 30000; // milliseconds
  let failed = false;
  const again = async (pause) => {
    const answer = await fetch(location.href, { cache: 'no-store' }).catch(() => null);
    if (answer && (answer.status < 500 || answer.headers.has('X-VDI-Gateway'))) return location.reload();
    document.body.textContent = 'The desktop cannot be reached now. This page tries again by itself.';
    document.getElementById('vdi-cover')?.remove();
    setTimeout(again, pause, pause);
  };
  addEventListener('error', ({ target }) => {
    const isPart = target instanceof HTMLScriptElement
      || (target instanceof HTMLLinkElement && ['stylesheet', 'modulepreload'].includes(target.rel));
    if (!isPart || failed) return;
    failed = true;
    const pause = Math.min(Number(sessionStorage.getItem(KEY)) * 2 || SHORTEST, LONGEST);
    sessionStorage.setItem(KEY, pause);
    console.warn(`[load-again] ${target.src || target.href} could not be loaded: again in ${pause} ms`);
    setTimeout(again, pause, pause);
  }, true);
  addEventListener('load', () => { if (!failed) sessionStorage.removeItem(KEY); });
})();
