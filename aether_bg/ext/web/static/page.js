// Polling pauses while the page is hidden or somebody reads what is open; what was folded out stays so; copy buttons.
"use strict";
(function () {
  const connection = () => document.getElementById("connection");
  const say = (text) => { const p = connection(); if (p && p.textContent !== text) p.textContent = text; };
  let open = [];

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden || String(document.getSelection())) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", () => {
    open = Array.from(document.querySelectorAll("#live details[open]"), (one) => one.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    open.forEach((id) => { const one = document.getElementById(id); if (one) one.open = true; });
  });
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) say(""); });
  ["htmx:sendError", "htmx:timeout"].forEach((name) => document.addEventListener(name, () =>
    say("The service does not answer. This page is as it was, and asks again every few seconds.")));
  document.addEventListener("htmx:responseError", (event) =>
    say(event.detail.xhr.status === 403 ? "You may not see this page any more. Log in again and reload."
      : "This page cannot be brought up to date (" + event.detail.xhr.status + "). It asks again every few seconds."));
  document.addEventListener("visibilitychange", () => {
    const live = document.getElementById("live");
    if (!document.hidden && live && window.htmx) window.htmx.trigger(live, "refresh");
  });

  document.querySelectorAll("button.copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy).textContent;
      try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
      catch { const range = document.createRange(); range.selectNodeContents(document.getElementById(button.dataset.copy));
        document.getSelection().removeAllRanges(); document.getSelection().addRange(range); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  });
})();
