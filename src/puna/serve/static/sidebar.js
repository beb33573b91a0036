// The list of conversations. In: the heads of what is kept. Out: calls of `actions`: open(id), rename(id, title), remove(id), save(id).
// On a narrow page it is a drawer: what lies behind it is out of reach until it closes.
import { byId, iconButton, make } from "./dom.js";
import { say } from "./words.js";
import { visible } from "./visible.js";

export const titleText = (head) => visible(head.title) || say("untitled");

export class Sidebar {
  #menu = null; // the id whose menu is open
  #renaming = null;

  constructor(actions) {
    this.actions = actions;
    this.place = byId("list");
    this.drawer = byId("sidebar");
    byId("show-sidebar").addEventListener("click", () => this.open(true));
    byId("hide-sidebar").addEventListener("click", () => this.open(false));
    byId("shade").addEventListener("click", () => this.open(false));
    window.matchMedia("(min-width: 50.01rem)").addEventListener("change", () => this.isOpen && this.open(false, false));
  }

  get isOpen() {
    return this.drawer.classList.contains("open");
  }

  open(wanted, focus = true) {
    this.drawer.classList.toggle("open", wanted);
    byId("shade").hidden = !wanted;
    byId("main").inert = wanted;
    byId("show-sidebar").setAttribute("aria-expanded", String(wanted));
    if (focus) byId(wanted ? "hide-sidebar" : "show-sidebar").focus();
  }

  // heads: [{ id, title, updated }], `current`: the id on the page, `running`: the ids whose replies are being made.
  show(heads, current, running) {
    this.last = [heads, current, running];
    const sorted = [...heads].sort((left, right) => right.updated - left.updated);
    const focus = this.place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const entries = sorted.map((head) => this.#entry(head, head.id === current, running.has(head.id)));
    this.place.replaceChildren(sorted.length ? make("ul", {}, ...entries) : make("p", { class: "aside" }, say("none_kept")));
    if (focus) this.place.querySelector(`[data-key="${focus}"]`)?.focus();
  }

  #again(focus = null) {
    this.show(...this.last);
    if (focus) this.place.querySelector(`[data-key="${focus}"]`)?.focus();
  }

  #entry(head, current, running) {
    const open = this.#menu === head.id;
    const title = titleText(head);
    const toggle = () => {
      this.#menu = open ? null : head.id;
      this.#renaming = null;
      this.#again(`more-${head.id}`);
    };
    const parts = [
      make(
        "button",
        { type: "button", class: "open", "aria-current": current && "page", title, "data-key": `open-${head.id}`, click: () => this.actions.open(head.id) },
        running && make("i", { class: "running" }),
        make("span", {}, title),
      ),
      iconButton("more", say("more", { title }), toggle, { "aria-expanded": String(open), "data-key": `more-${head.id}` }),
    ];
    if (this.#renaming === head.id) parts.push(this.#rename(head));
    else if (open) parts.push(this.#actions(head, title));
    return make("li", { class: current ? "entry current" : "entry" }, ...parts);
  }

  #actions(head, title) {
    const button = (name, click, more = {}) => make("button", { type: "button", click, ...more }, say(name));
    const rename = () => {
      this.#renaming = head.id;
      this.#again(`title-${head.id}`);
    };
    return make(
      "div",
      { class: "menu", role: "group", "aria-label": say("more", { title }) },
      button("rename", rename),
      button("export", () => this.actions.save(head.id)),
      button("delete", () => this.actions.remove(head.id), { class: "bad" }),
    );
  }

  #rename(head) {
    const field = make("input", { type: "text", "aria-label": say("title_of"), maxlength: 200, "data-key": `title-${head.id}` });
    field.value = head.title;
    const end = () => {
      this.#renaming = this.#menu = null;
      this.#again(`more-${head.id}`);
    };
    const submit = (event) => {
      event.preventDefault();
      const title = field.value.trim();
      end();
      if (title) this.actions.rename(head.id, title);
    };
    const escape = (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation();
      end();
    };
    return make("form", { submit, keydown: escape }, field);
  }
}
