// Before the first paint, without `defer`: the colours and the language that the reader chose last time, so that nothing flashes.
"use strict";
(() => {
  const root = document.documentElement;
  let kept = {};
  try {
    kept = JSON.parse(window.localStorage.getItem("puna-looks") || "{}") || {};
  } catch {
    kept = {}; // a browser that keeps nothing, or a damaged entry: the system decides
  }
  if (kept.colours === "light" || kept.colours === "dark") root.dataset.theme = kept.colours;
  const language = kept.language || navigator.language || "en";
  root.lang = language.toLowerCase().startsWith("zh") ? "zh-Hans" : "en";
})();
