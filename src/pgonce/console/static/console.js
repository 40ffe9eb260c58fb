// Refreshes what may change (class "live") while somebody looks, and knows the keys. The pages work without it.
"use strict";
(() => {
  const body = document.body;
  const find = (id) => document.getElementById(id);
  const often = find("often"), pace = find("pace"), button = find("pause");
  const EVERY = 1000 * Number(often?.dataset.every || 5), IDLE = 600000;
  let failed = 0, asked = 0, moved = Date.now(), paused = false, asking = false, ended = false;

  const selects = () => { const selection = getSelection(); return Boolean(selection && !selection.isCollapsed); };
  const reason = () => {
    if (paused) return "paused";
    if (document.hidden) return "paused while hidden";
    if (selects()) return "paused while text is selected";
    return Date.now() - moved > IDLE ? "paused: nobody has moved for 10 min" : "";
  };
  const show = () => {
    const why = reason();
    pace.textContent = why || `every ${EVERY / 1000} s`;
    button.textContent = paused ? "Resume" : "Pause";
    return why;
  };
  const say = (text) => {
    const place = find("refresh");
    place.textContent = text;
    place.classList.add("bad");
  };
  const stale = () => say(`${find("refresh").dataset.stale} Load the page to try again.`);
  const tick = () => {
    if (asking && Date.now() - asked > 3 * EVERY) stale();  // a database that hangs answers nothing, not even an error
    if (ended || show() || asking) return;
    asking = true;
    asked = Date.now();
    htmx.trigger(body, "pgonce:refresh");
  };
  const miss = () => {
    failed += 1;
    if (failed >= 3) stale();
  };

  if (often && body.hasAttribute("hx-get")) {
    often.hidden = false;
    setInterval(tick, EVERY);
    for (const name of ["pointermove", "keydown", "scroll", "touchstart"])
      addEventListener(name, () => { moved = Date.now(); }, { passive: true });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) { moved = Date.now(); tick(); } });
    button.addEventListener("click", () => { paused = !paused; moved = Date.now(); tick(); show(); });
  }
  // An error page, or the login after a logout elsewhere, is not swapped in.
  document.addEventListener("htmx:before:response", (event) => {
    const answer = event.detail.ctx.response;
    if (answer.status === 200 && !answer.raw.redirected) { failed = 0; return; }
    event.preventDefault();
    if (answer.raw.redirected) { ended = often.hidden = true; say("Logged out. Load the page to log in again."); }
    else miss();
  });
  document.addEventListener("htmx:error", miss);
  document.addEventListener("htmx:finally:request", () => { asking = false; });
  // The head is not swapped: title and icon follow the page that came.
  document.addEventListener("htmx:before:swap", (event) => {
    const page = new DOMParser().parseFromString(event.detail.ctx.text, "text/html");
    if (page.title && document.title !== page.title) document.title = page.title;
    const icon = page.getElementById("icon")?.getAttribute("href");
    if (icon && find("icon").getAttribute("href") !== icon) find("icon").setAttribute("href", icon);
    find("refresh").classList.remove("bad");
  });

  // The viewer's zone, once. Whoever has chosen another one keeps it.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && find("zone") && !document.cookie.includes("pgonce_zone=")) {
    const path = document.querySelector(".brand").getAttribute("href").replace(/(.)\/$/, "$1");
    document.cookie = `pgonce_zone=${zone}; Path=${path}; Max-Age=34560000; SameSite=Lax`;
    if (find("zone").textContent !== zone && document.cookie.includes("pgonce_zone=")) location.reload();
  }

  // Keys
  let row = -1;
  const move = (by) => {
    const rows = [...document.querySelectorAll("main tbody tr")].filter((each) => each.querySelector("a"));
    if (!rows.length) return;
    row = Math.min(Math.max(row + by, 0), rows.length - 1);
    rows[row].querySelector("a").focus();
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("dialog")) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") { event.preventDefault(); find("q")?.focus(); }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "x") event.target.closest("tr")?.querySelector("[type=checkbox]")?.click();
    else if (event.key === "?") find("keys")?.showModal();
  });
})();
