// The field where messages are written. Enter sends, Shift+Enter makes a line; a key that belongs to an input method (Chinese, say)
// never sends. While a reply runs, the button stops it.
import { byId, icon } from "./dom.js";
import { say } from "./words.js";

export class Composer {
  #drafts = new Map(); // conversation's id -> text not sent yet
  #id = null;
  #mode = "chat";
  #running = false;
  #more = false;

  // actions: send(text), stop(), editLast()
  constructor(actions) {
    this.actions = actions;
    [this.form, this.field, this.button] = ["composer", "message", "send"].map(byId);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) actions.stop();
      else this.#send();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.altKey) {
        event.preventDefault();
        if (!this.#running) this.#send();
      } else if (event.key === "ArrowUp" && this.field.value === "" && !event.shiftKey) {
        event.preventDefault();
        actions.editLast();
      }
    });
    this.field.addEventListener("input", () => this.#keep());
  }

  #keep() {
    if (this.#id !== null) this.#drafts.set(this.#id, this.field.value);
    this.#grow();
    this.#enable();
  }

  // Where the style sheet's `field-sizing` is not known, the field grows with its lines.
  #grow() {
    if (!CSS.supports("field-sizing", "content")) this.field.rows = Math.min(8, this.field.value.split("\n").length);
  }

  #enable() {
    const ready = this.#running || this.field.value.trim() !== "" || this.#more;
    this.button.setAttribute("aria-disabled", String(!ready)); // it stays in the order of focus
    this.button.classList.toggle("idle", !ready);
  }

  #send() {
    const text = this.field.value;
    if (!text.trim() && !this.#more) return;
    if (!this.actions.send(text)) return;
    this.field.value = "";
    this.#keep();
  }

  focus() {
    this.field.focus();
  }

  // What the field is for now: `mode` "chat" or "text"; `more`: an empty field may be sent (the text goes on).
  show(id, { mode, running, more }) {
    if (id !== this.#id) {
      this.#id = id;
      this.field.value = this.#drafts.get(id) ?? "";
      this.#grow();
    }
    this.#mode = mode;
    this.#running = running;
    this.#more = more;
    const text = mode === "text";
    this.field.setAttribute("aria-label", say(text ? "text" : "message"));
    this.field.removeAttribute("title");
    this.field.placeholder = say(more ? "text_more_hint" : text ? "text_hint" : "message_hint");
    const label = say(running ? "stop" : text ? "go_on" : "send");
    this.button.replaceChildren(icon(running ? "stop" : "send"));
    this.button.setAttribute("aria-label", label);
    this.button.title = label;
    this.#enable();
  }
}
