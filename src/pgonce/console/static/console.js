// Refreshes what may change (class "live"), while somebody looks; and the keys. The pages work without it.
"use strict";
(() => {
  const body = document.body;
  const updated = () => document.getElementById("refresh");
  const every = () => Number(document.getElementById("updated")?.dataset.every || 5) * 1000;
  const IDLE = 600000;
  let failed = 0, moved = Date.now(), paused = false, asking = false;

  const selected = () => {
    const selection = getSelection();
    return selection && !selection.isCollapsed;
  };
  const busy = () => {
    const active = document.activeElement;
    return active && active !== body && active.matches("input, select, textarea");
  };
  const say = (text, bad) => {
    const place = updated();
    if (place) { place.textContent = text; place.classList.toggle("bad", Boolean(bad)); }
  };
  const why = () => {
    if (paused) return "Paused";
    if (document.hidden) return "Paused while hidden";
    if (selected()) return "Paused while text is selected";
    if (Date.now() - moved > IDLE) return "Paused: nobody is here";
    return "";
  };

  const tick = () => {
    const reason = why();
    if (!body.hasAttribute("hx-get") || asking) return;
    if (reason) { if (!document.hidden) note(reason); return; }
    asking = true;
    htmx.trigger(body, "pgonce:refresh");
  };
  const note = (reason) => {
    const place = document.getElementById("pause");
    if (place) place.textContent = reason ? "Resume" : "Pause";
  };
  document.addEventListener("htmx:finally:request", () => { asking = false; });
  document.addEventListener("htmx:after:request", (event) => {
    const response = event.detail?.ctx?.response;
    asking = false;
    if (response && response.status === 200 && !response.raw?.redirected) { failed = 0; return; }
    lost();
  });
  document.addEventListener("htmx:error", () => { asking = false; lost(); });
  const lost = () => {
    failed += 1;
    const place = updated();
    if (failed >= 3 && place) say(`${place.dataset.stale} Try again by loading the page.`, true);
  };
  // The head is not swapped: title and icon follow the page that came.
  document.addEventListener("htmx:before:swap", (event) => {
    const text = event.detail?.ctx?.text;
    if (!text) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    if (page.title) document.title = page.title;
    const icon = page.getElementById("icon"), ours = document.getElementById("icon");
    if (icon && ours && icon.getAttribute("href") !== ours.getAttribute("href")) ours.setAttribute("href", icon.getAttribute("href"));
  });
  setInterval(tick, 1000 * Math.max(1, every() / 1000));
  for (const name of ["pointermove", "keydown", "scroll", "touchstart"])
    addEventListener(name, () => { moved = Date.now(); }, { passive: true });
  document.addEventListener("visibilitychange", () => { moved = Date.now(); if (!document.hidden) tick(); });
  document.addEventListener("click", (event) => {
    if (event.target.id !== "pause") return;
    event.preventDefault();
    paused = !paused;
    moved = Date.now();
    event.target.textContent = paused ? "Resume" : "Pause";
    if (!paused) tick();
  });

  // The viewer's zone, once. Who chose another one keeps it.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes("pgonce_zone=")) {
    const path = document.querySelector(".brand")?.getAttribute("href").replace(/\/$/, "") || "/";
    document.cookie = `pgonce_zone=${zone}; Path=${path}; Max-Age=34560000; SameSite=Lax`;
    if (body.hasAttribute("hx-get") && document.getElementById("zone")?.textContent !== zone) location.reload();
  }

  // Keys: / find, j k rows, x select, Enter open, ? list
  let row = -1;
  const rows = () => [...document.querySelectorAll("main tbody tr")].filter((each) => each.querySelector("a"));
  const move = (by) => {
    const all = rows();
    if (!all.length) return;
    row = Math.min(Math.max(row + by, 0), all.length - 1);
    all[row].querySelector("a").focus();
    all[row].scrollIntoView({ block: "nearest" });
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (busy()) { if (event.key === "Escape") document.activeElement.blur(); return; }
    if (event.key === "/") { event.preventDefault(); document.getElementById("q")?.focus(); }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "x") document.activeElement?.closest("tr")?.querySelector("[type=checkbox]")?.click();
    else if (event.key === "?") document.getElementById("keys")?.showModal();
  });
})();
