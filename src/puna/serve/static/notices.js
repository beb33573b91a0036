// Lines above the thread that stay until what they say is mended: no server, nothing kept.
import { announce } from "./announce.js";
import { byId, make } from "./dom.js";
import { say } from "./words.js";

const shown = new Map(); // what about -> its element

export const notices = {
  show(about, text, again = null) {
    this.clear(about);
    const button = again && make("button", { type: "button", click: again }, say("retry"));
    const element = make("div", { class: "notice bad" }, make("p", {}, text), button);
    shown.set(about, element);
    byId("notices").append(element);
    announce(text);
  },

  clear(about) {
    shown.get(about)?.remove();
    shown.delete(about);
  },
};
