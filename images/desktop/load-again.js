// In the page itself, before the parts that it loads: a part that is refused, as while a desktop comes or goes, would
// leave an empty page for good. The page is loaded again instead, later each time; the gateway then shows the desktop,
// or its waiting page.
(() => {
  const KEY = 'vdi-load-again';
  const SHORTEST = 1000;
  const LONGEST = 30000; // milliseconds
  let failed = false;
  addEventListener('error', ({ target }) => {
    const isPart = target instanceof HTMLScriptElement
      || (target instanceof HTMLLinkElement && ['stylesheet', 'modulepreload'].includes(target.rel));
    if (!isPart || failed) return;
    failed = true;
    const pause = Math.min(Number(sessionStorage.getItem(KEY)) * 2 || SHORTEST, LONGEST);
    sessionStorage.setItem(KEY, pause);
    console.warn(`[load-again] ${target.src || target.href} could not be loaded: again in ${pause} ms`);
    setTimeout(() => location.reload(), pause);
  }, true);
  addEventListener('load', () => { if (!failed) sessionStorage.removeItem(KEY); });
})();
