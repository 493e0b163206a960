"use strict";
// Fetches this very page every few seconds and takes its content over where it has changed.
(() => {
  const live = document.getElementById("live");
  const button = document.getElementById("pause");
  let paused = false;
  let last = document.getElementById("content").innerHTML;

  const busy = () => {
    const selection = document.getSelection();
    return document.hidden || paused || (selection !== null && !selection.isCollapsed);
  };

  const show = (next) => {
    const main = document.getElementById("content");
    const open = [...main.querySelectorAll("details[open][id]")].map((one) => one.id);
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const href = focused && focused.getAttribute("href");
    main.replaceChildren(...next.childNodes);
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (href) {
      [...main.querySelectorAll("a[href]")].find((one) => one.getAttribute("href") === href)?.focus();
    }
  };

  const refresh = async () => {
    if (busy()) return;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      // The content alone: the style of the whole page has a nonce that this page's policy does not know.
      const content = text.slice(text.indexOf("<main"), text.indexOf("</main>"));
      const next = new DOMParser().parseFromString(content, "text/html").getElementById("content");
      if (next.innerHTML !== last && !busy()) {
        last = next.innerHTML;
        show(next);
      }
      live.textContent = "";
    } catch (error) {
      live.textContent = "The worker does not answer; this page is not up to date.";
    }
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume updates" : "Pause updates";
    refresh();
  });
  setInterval(refresh, 3000);
})();
