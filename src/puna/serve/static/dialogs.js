// Dialogs: <dialog> shown modally, so that focus stays inside, Escape closes, and it returns to where it was.
import { byId, iconButton, make } from "./dom.js";
import { looks } from "./looks.js";
import { say } from "./words.js";

let numbered = 0;

// Opens a dialog and gives it. `sheet`: at the right, over the whole height. It is gone when it closes; `closed` is told.
export const openDialog = (title, content, { sheet = false, closed = () => undefined } = {}) => {
  const id = `dialog-${(numbered += 1)}`;
  const dialog = make("dialog", { class: sheet ? "sheet" : null, "aria-labelledby": id });
  const head = make("header", {}, make("h2", { id, tabindex: "-1", autofocus: true }, title), iconButton("close", say("close"), () => dialog.close()));
  dialog.append(head, make("div", { class: "inside" }, ...content));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the ground around it
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed(dialog.returnValue);
  });
  byId("dialogs").append(dialog);
  dialog.showModal();
  return dialog;
};

// A question; true where the reader says yes.
export const confirmed = (question, yes) =>
  new Promise((done) => {
    const button = (text, value, kind) => make("button", { type: "button", class: kind, click: () => dialog.close(value) }, text);
    const ends = make("div", { class: "ends" }, button(say("cancel"), "", null), button(yes, "yes", "main"));
    const dialog = openDialog(yes, [make("p", {}, question), ends], { closed: (value) => done(value === "yes") });
  });

// Asks for the server's key; null where the reader does not give one.
export const askKey = (wrong) =>
  new Promise((done) => {
    const field = make("input", { type: "password", id: "key-field", autocomplete: "off", spellcheck: "false", required: true, autofocus: true });
    const submit = (event) => {
      event.preventDefault();
      dialog.close(field.value.trim());
    };
    const form = make(
      "form",
      { class: "field", submit },
      wrong && make("p", { class: "wrong", role: "alert" }, say("key_wrong")),
      make("label", { for: "key-field" }, say("key")),
      field,
      make("p", { class: "aside" }, say("key_note")),
      make("div", { class: "ends" }, make("button", { type: "submit", class: "main" }, say("key_use"))),
    );
    const dialog = openDialog(say("key_title"), [form], { closed: (value) => done(value || null) });
    field.focus();
  });

const KEYS = [
  ["key_enter", ["Enter"]], ["key_line", ["Shift", "Enter"]], ["key_escape", ["Esc"]], ["key_up", ["↑"]],
  ["key_write", ["/"]], ["key_new", ["n"]], ["key_list", ["l"]], ["key_about", ["i"]], ["key_settings", ["s"]], ["key_compare", ["c"]], ["key_help", ["?"]],
];

export const openHelp = () => {
  const rows = KEYS.flatMap(([name, keys]) => [make("dt", {}, ...keys.flatMap((one, at) => [at ? " + " : null, make("kbd", {}, one)])), make("dd", {}, say(name))]);
  const box = make("input", { type: "checkbox", id: "single-keys", change: () => looks.keep("keys", box.checked) });
  box.checked = looks.get("keys") !== false;
  return openDialog(say("help"), [
    make("p", {}, say("help_text")),
    make("dl", { class: "keys" }, ...rows),
    make("div", { class: "check" }, box, make("label", { for: "single-keys" }, say("single_keys")), make("span", { class: "aside" }, say("single_keys_note"))),
  ]);
};

// What is kept here, and the key. `count`: how many conversations; `actions`: save(), clear().
export const openData = (count, key, actions) => {
  const run = (work) => () => {
    dialog.close();
    work();
  };
  const button = (name, work, more = {}) => make("button", { type: "button", click: run(work), ...more }, say(name));
  const dialog = openDialog(say("data"), [
    make("p", {}, say("data_note")),
    make("p", {}, say("kept", { n: count })),
    make("div", { class: "ends" }, button("export_all", actions.save, { disabled: !count }), button("clear_all", actions.clear, { class: "bad", disabled: !count })),
    make("h3", {}, say("key")),
    make("p", {}, say(key.get() === null ? "key_none" : "key_there")),
    make("div", { class: "ends" }, button("key_forget", () => key.forget(), { disabled: key.get() === null })),
  ]);
};
