// Text to the clipboard, and a tick on the button that asked for it.
import { icon, make } from "./dom.js";
import { announce } from "./announce.js";
import { say } from "./words.js";

// The clipboard's own interface is there on https and loopback only; elsewhere the older command copies a selection.
const put = async (text) => {
  if (window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = make("textarea", { class: "hidden", readonly: true, "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("refused");
};

export const copy = async (text, button) => {
  const before = [...button.childNodes];
  let said = "copied";
  try {
    await put(text);
    button.replaceChildren(icon("done"));
  } catch {
    said = "copy_failed"; // permission refused: the reader is told, and can select the text
    button.replaceChildren(icon("close"));
  }
  button.title = say(said);
  announce(say(said));
  setTimeout(() => {
    button.replaceChildren(...before);
    button.title = button.getAttribute("aria-label");
  }, 1500);
};
