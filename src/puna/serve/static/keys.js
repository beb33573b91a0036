// Shortcuts of the page. A single letter counts only outside of fields and dialogs, and not at all where the reader switched it off
// (WCAG 2.1.4: voice input types letters).
import { looks } from "./looks.js";

const writes = (element) => element.matches("input, textarea, select, [contenteditable]");

export const listen = (actions) => {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const single = event.key.length === 1;
    if (single && (looks.get("keys") === false || writes(event.target))) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
    if (!action) return;
    event.preventDefault();
    action();
  });
};
