// The thread as elements: what was written, what was answered, and the buttons under each. In: a conversation. Out: nothing but calls
// of `actions`: retry(turn), edit(turn, text), choose(id). A reply that grows is brought up to date alone.
import { icon, iconButton, make } from "./dom.js";
import { copy } from "./copy.js";
import { failureText } from "./failures.js";
import { pathOf, versionsOf } from "./conversation.js";
import { render } from "./markdown.js";
import { say, short, whole } from "./words.js";
import { speedOf } from "./replying.js";
import { visible } from "./visible.js";

const NEAR = 60; // pixels from the end: nearer than this the thread follows a growing reply
const EVERY = 30; // ms between two looks at a growing reply

export class Thread {
  #views = new WeakMap(); // reply -> its elements
  #waiting = new Set(); // replies to bring up to date with the next look
  #follows = true;

  constructor(place, scroller, newest, actions) {
    Object.assign(this, { place, scroller, newest, actions });
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    newest.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follow()).observe(place);
    new ResizeObserver(() => this.#follow()).observe(scroller);
  }

  toEnd() {
    this.#follows = true;
    this.#follow();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    this.newest.hidden = this.#follows;
  }

  #follow() {
    if (this.#follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.#scrolled();
  }

  // Shows a conversation anew; `start` is shown where it has no turn. `focus`: { turn, action } of the button that was pressed.
  show(conversation, start, focus = null) {
    const path = pathOf(conversation);
    this.place.classList.toggle("empty", path.length === 0);
    document.body.classList.toggle("two", conversation.models.length > 1 || path.some((turn) => turn.replies?.length > 1));
    this.place.replaceChildren(...(path.length ? path.map((turn) => this.#turn(conversation, turn)) : [start]));
    if (!focus) return;
    const buttons = [...this.place.querySelectorAll(`[data-turn="${focus.turn}"] button`)];
    (buttons.find((button) => button.dataset.action === focus.action && !button.disabled) ?? buttons.find((button) => !button.disabled))?.focus();
  }

  // A reply has grown or ended.
  update(reply) {
    if (this.#waiting.size === 0) setTimeout(() => this.#look(), EVERY); // a timer, since a page in the background has no frames
    this.#waiting.add(reply);
  }

  #look() {
    const replies = [...this.#waiting];
    this.#waiting.clear();
    for (const reply of replies) if (this.#views.get(reply)?.root.isConnected) this.#refresh(reply);
  }

  #turn(conversation, turn) {
    const versions = this.#versions(conversation, turn);
    return turn.role === "user" ? this.#user(turn, versions) : this.#assistant(turn, versions, pathOf(conversation).at(-1) === turn);
  }

  #versions(conversation, turn) {
    const { at, n, before, after } = versionsOf(conversation, turn);
    if (n < 2) return null;
    const step = (name, id) =>
      iconButton(name, say(`version_${name}`), () => this.actions.choose(id, name), { disabled: id === null, "data-action": name });
    const shown = make("span", { "aria-hidden": "true" }, say("version", { at, n }));
    const label = say("version_label", { at, n });
    return make("span", { class: "versions", role: "group", "aria-label": label }, step("before", before), shown, step("after", after));
  }

  #user(turn, versions) {
    const bubble = make("div", { class: "bubble" }, visible(turn.text));
    const copied = iconButton("copy", say("copy"), () => copy(turn.text, copied), { "data-action": "copy" });
    const edit = iconButton("edit", say("edit"), () => this.startEdit(turn), { "data-action": "edit" });
    return make(
      "article",
      { class: "turn user", "data-turn": turn.id, "aria-label": say("you") },
      make("h2", { class: "hidden" }, say("you")),
      bubble,
      make("div", { class: "under" }, versions, copied, edit),
    );
  }

  // Puts a field in the place of a message. The version that stands there stays.
  startEdit(turn) {
    const element = this.place.querySelector(`[data-turn="${turn.id}"]`);
    const before = [...element.childNodes];
    const field = make("textarea", { "aria-label": say("edit_label"), rows: 3 });
    field.value = turn.text;
    const end = () => {
      element.replaceChildren(...before);
      element.querySelector('[data-action="edit"]').focus();
    };
    const send = (event) => {
      event?.preventDefault();
      if (field.value.trim()) this.actions.edit(turn, field.value);
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return; // the key belongs to the input method
      if (event.key === "Enter" && !event.shiftKey) send(event);
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      }
    });
    const buttons = [
      make("p", { class: "aside" }, say("edit_note")),
      make("button", { type: "button", click: end }, say("cancel")),
      make("button", { type: "submit", class: "main" }, say("send_edit")),
    ];
    element.replaceChildren(make("form", { class: "edit", submit: send }, field, make("div", {}, ...buttons)));
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  #assistant(turn, versions, last) {
    const two = turn.replies.length > 1;
    const retry = last && iconButton("retry", say("retry"), () => this.actions.retry(turn), { "data-action": "retry" });
    const sides = turn.replies.map((reply) => this.#reply(reply, turn, last, two ? [] : [versions, retry]));
    const shared = two && (versions || retry) ? make("div", { class: "under" }, versions, retry) : null;
    return make("div", { class: "turn", "data-turn": turn.id }, make("div", { class: two ? "sides two" : "sides" }, ...sides), shared);
  }

  #reply(reply, turn, last, buttons) {
    const body = make("div", { class: reply.mode === "text" ? "body plain" : "body" });
    const tail = make("div", { class: "tail" });
    const root = make("article", { class: "reply", "aria-label": reply.model }, make("h2", { class: "who" }, visible(reply.model)), body, tail);
    this.#views.set(reply, { root, body, tail, buttons, turn, last, state: null });
    this.#refresh(reply);
    return root;
  }

  #refresh(reply) {
    const view = this.#views.get(reply);
    if (reply.mode === "text") view.body.textContent = visible(reply.text);
    else render(view.body, reply.text);
    const state = `${reply.finish}|${reply.text === ""}|${reply.dropped}`;
    if (state === view.state) return;
    view.state = state;
    view.body.hidden = reply.text === "";
    view.root.setAttribute("aria-busy", String(reply.finish === null));
    view.tail.replaceChildren(...this.#tail(reply, view));
  }

  #tail(reply, { turn, buttons, last }) {
    const parts = [];
    if (reply.dropped) parts.push(make("p", { class: "aside" }, say(reply.mode === "text" ? "dropped_tokens" : "dropped", { n: reply.dropped })));
    if (reply.finish === null) {
      if (reply.text === "") parts.push(make("p", { class: "waiting", role: "img", "aria-label": say("waiting") }, make("i"), make("i"), make("i")));
      return parts;
    }
    if (reply.finish === "error" || reply.finish === "cut") {
      const again = last && make("button", { type: "button", "data-action": "again", click: () => this.actions.retry(turn) }, icon("retry"), say("retry"));
      const text = reply.finish === "cut" ? say("end_cut") : failureText(reply.error, reply.model);
      parts.push(make("div", { class: "failure" }, make("p", {}, text), again));
    } else if (reply.text === "") parts.push(make("p", { class: "aside" }, say("no_text")));
    const copied = reply.text !== "" && iconButton("copy", say("copy"), () => copy(reply.text, copied), { "data-action": "copy" });
    parts.push(make("div", { class: "under" }, ...buttons, copied, factsOf(reply)));
    return parts;
  }
}

// "42 tokens/s · first token after 0.18 s · 120 tokens"
const factsOf = (reply) => {
  const { usage, first, finish } = reply;
  const speed = speedOf(reply);
  const facts = [
    speed !== null && say("speed", { n: short(speed) }),
    first !== null && say("first", { s: short(first) }),
    usage && say("tokens", { n: usage.completion === 1 ? 1 : whole(usage.completion) }),
    !["error", "cut"].includes(finish) && endText(finish),
  ].filter(Boolean);
  const title = usage ? say("cached", { n: whole(usage.cached), all: whole(usage.prompt) }) : null;
  return make("span", { class: "facts", title }, facts.join(" · "));
};

const ENDS = ["stop", "length", "stopped", "abort", "content_filter", "tool_calls"];
const endText = (finish) => (ENDS.includes(finish) ? say(`end_${finish}`) : "");
