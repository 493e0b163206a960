"use strict";
// For every page: times in UTC or local, and the keyboard.
const remembered = (name) => {
  try { return localStorage.getItem(name); } catch { return null; }
};
const remember = (name, value) => {
  try { localStorage.setItem(name, value); } catch { /* Only this page knows it then. */ }
};

const zone = document.getElementById("zone");
let local = remembered("zone") === "local";
const two = (number) => String(number).padStart(2, "0");
const showTimes = () => {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.dataset.utc ??= time.textContent;
    time.textContent = !local ? time.dataset.utc
      : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  }
  for (const name of document.querySelectorAll(".zone")) name.textContent = local ? "local" : "UTC";
  zone.textContent = local ? "Local time" : "UTC";
  zone.title = local ? "Times are this browser's own; show UTC" : "Times are UTC; show this browser's own";
};
zone.hidden = false;
zone.addEventListener("click", () => {
  local = !local;
  remember("zone", local ? "local" : "UTC");
  showTimes();
});
showTimes();

// The key / leads to the filter, j and k through the rows.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  if (event.key === "/") {
    const filter = document.querySelector("main [data-filter]") ?? document.querySelector("[data-filter]");
    filter?.focus();
    filter?.select?.();
  } else if (event.key === "j" || event.key === "k") {
    const links = [...document.querySelectorAll("main tbody tr")].map((row) => row.querySelector("a[href]")).filter(Boolean);
    if (links.length === 0) return;
    const row = document.activeElement?.closest("main tbody tr");
    const now = row ? links.findIndex((link) => row.contains(link)) : -1;
    const next = now < 0 ? 0 : now + (event.key === "j" ? 1 : -1);
    links[Math.min(Math.max(next, 0), links.length - 1)].focus();
  } else {
    return;
  }
  event.preventDefault();
});
