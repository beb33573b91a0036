// Before the first paint: says that scripts run, and takes the colours that the reader chose last time. Loaded without `defer`.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.remove("no-js");
  root.classList.add("js");
  let chosen = null;
  try {
    chosen = window.localStorage.getItem("puna-colours");
  } catch {
    chosen = null; // a browser that keeps nothing for files: the system decides
  }
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
})();
