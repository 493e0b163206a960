// Takes this page's content over anew when the worker says that something has changed; where it sends no events, every
// few seconds. Comes after page.js.
(() => {
  const live = document.getElementById("live");
  const button = document.getElementById("pause");
  const main = document.getElementById("content");
  let paused = remembered("paused") === "yes";
  let last = null;
  let events = null;
  let polling = null;
  let asking = false;
  let again = false;

  const changed = (field) => field.value !== field.defaultValue || field.checked !== field.defaultChecked;
  const picked = (field) => field.selectedIndex !== Math.max(0, [...field.options].findIndex((one) => one.defaultSelected));

  // Nothing is taken from under somebody's hands: a selection, a form that is open, a field.
  const busy = () => {
    const selection = document.getSelection();
    return document.hidden || paused || (selection !== null && !selection.isCollapsed)
      || main.querySelector("details[open] form") !== null
      || main.contains(document.activeElement?.closest("input, textarea, select"))
      || [...main.querySelectorAll("input, textarea")].some(changed) || [...main.querySelectorAll("select")].some(picked);
  };

  const show = (next) => {
    const folded = new Map([...main.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    const focused = main.contains(document.activeElement) && document.activeElement !== main ? document.activeElement : null;
    const key = focused && (focused.id || focused.getAttribute("href") || focused.getAttribute("aria-label"));
    main.replaceChildren(...next.childNodes);
    folded.forEach((open, id) => document.getElementById(id)?.toggleAttribute("open", open));
    if (key) {
      [...main.querySelectorAll("a[href], summary, [tabindex]")]
        .find((one) => [one.id, one.getAttribute("href"), one.getAttribute("aria-label")].includes(key))
        ?.focus({ preventScroll: true });
    }
    showTimes();
  };

  const say = (text) => {
    if (live.textContent !== text) live.textContent = text;
  };

  const take = async () => {
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
    say("");
  };

  const refresh = async () => {
    again = asking;
    if (busy() || asking) return;
    asking = true;
    try {
      await take();
    } catch (error) {
      say(error.message === "401" ? "Logged out: load the page again." : "The worker does not answer; this page is not up to date.");
    }
    asking = false;
    if (again) refresh();
  };

  const poll = () => { polling ??= setInterval(refresh, 3000); };

  const listen = () => {
    events = new EventSource("/events");
    events.addEventListener("change", refresh);
    events.addEventListener("beat", refresh);
    events.addEventListener("open", refresh);
    events.addEventListener("error", () => {
      // Closed for good: no stream for this page. Else the browser tries again by itself.
      if (events?.readyState === EventSource.CLOSED) poll();
      else refresh();
    });
  };

  // A page that nobody sees, or that is paused, holds no stream.
  const follow = () => {
    const wanted = !paused && !document.hidden;
    if (wanted && events === null && polling === null) listen();
    if (!wanted) {
      events?.close();
      clearInterval(polling);
      events = polling = null;
    }
    button.textContent = paused ? "Resume updates" : "Pause updates";
    button.setAttribute("aria-pressed", String(paused));
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    remember("paused", paused ? "yes" : "no");
    follow();
  });
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => events?.close());
  follow();
})();
