"use strict";
/* Times in the zone and language of the browser: relative ones count down, and each has its other form as its title. */

(() => {
  const MINUTE = 60000;

  const span = (milliseconds) => {
    const minutes = Math.floor(milliseconds / MINUTE);
    if (minutes < 1) return "less than a minute";
    const parts = [[Math.floor(minutes / 1440), "d"], [Math.floor(minutes / 60) % 24, "h"], [minutes % 60, "min"]];
    return parts.filter(([number]) => number).slice(0, 2).map(([number, unit]) => `${number} ${unit}`).join(" ");
  };

  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

  const ago = (milliseconds) => (milliseconds < MINUTE ? "just now" : `${span(milliseconds)} ago`);

  /* The text of a time, and the title with its other form. */
  const forms = (say, instant, ahead) => {
    const relative = ahead > 0 ? `in ${span(ahead)}` : ago(-ahead);
    switch (say) {
      case "left":
        return [ahead > 0 ? `${span(ahead)} left` : "over", local.format(instant)];
      case "until":
        return [ahead < MINUTE ? "any moment" : `in about ${span(ahead)}`, local.format(instant)];
      case "ago":
        return [ago(-ahead), local.format(instant)];
      case "clock":
        return [clock.format(instant), `${local.format(instant)}, ${relative}`];
      case "exact":
        return [exact.format(instant), relative];
      default:
        return [local.format(instant), relative];
    }
  };

  /* Only what changes is written: the observer below sees each write. */
  const show = (element) => {
    const instant = Date.parse(element.dateTime);
    if (Number.isNaN(instant)) return;
    const [text, title] = forms(element.dataset.say, instant, instant - Date.now());
    if (element.textContent !== text) element.textContent = text;
    if (element.title !== title) element.title = title;
  };

  const showAll = () => {
    document.querySelectorAll("time[datetime]").forEach(show);
  };

  document.addEventListener("DOMContentLoaded", () => {
    showAll();
    new MutationObserver(showAll).observe(document.body, { childList: true, subtree: true });
    setInterval(showAll, MINUTE / 4);
  });
})();
