// Instructions and sampling of one conversation. In: its settings. Out: new ones, once every field holds what it may.
import { BEGIN, FIELDS, MOST_STOPS, readNumber, readStops, writeStops } from "./sampling.js";
import { make } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { say } from "./words.js";

const named = (id, label, control, note) => {
  const wrong = make("p", { class: "wrong", id: `${id}-wrong`, hidden: true });
  const aside = make("p", { class: "aside", id: `${id}-note` }, note);
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-note ${id}-wrong`);
  const tell = (text) => {
    wrong.hidden = !text;
    wrong.textContent = text;
    if (text) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  return { root: make("div", { class: "field" }, make("label", { for: id }, label), control, aside, wrong), control, tell };
};

export const openSettings = (settings, save) => {
  const area = (value, rows) => {
    const field = make("textarea", { rows, maxlength: 100000, spellcheck: "false" });
    field.value = value;
    return field;
  };
  const system = named("set-system", say("system"), area(settings.system ?? "", 4), say("system_note"));
  const numbers = FIELDS.map((field) => {
    const control = make("input", { type: "text", inputmode: field.least < 0 ? null : "decimal", autocomplete: "off", size: 8 });
    control.value = settings[field.name] ?? "";
    return { field, ...named(`set-${field.name}`, say(field.name), control, say(`${field.name}_note`)) };
  });
  const stops = named("set-stop", say("stop_texts"), area(writeStops(settings.stop ?? []), 2), say("stop_texts_note"));

  const read = () => {
    const next = { system: system.control.value.trim(), stop: readStops(stops.control.value) };
    let first = null;
    for (const { field, control, tell } of numbers) {
      const value = readNumber(field, control.value);
      tell(value === undefined ? say(field.step === 1 ? "range_whole" : "range", field) : "");
      if (value === undefined) first ??= control;
      else if (value !== null) next[field.name] = value;
    }
    const tooMany = next.stop.length > MOST_STOPS;
    stops.tell(tooMany ? say("range_stop", { n: MOST_STOPS }) : "");
    first ??= tooMany ? stops.control : null;
    first?.focus();
    return first ? null : next;
  };
  const submit = (event) => {
    event.preventDefault();
    const next = read();
    if (!next) return;
    dialog.close();
    save(next);
  };
  const reset = () => {
    for (const { field, control, tell } of [system, stops, ...numbers]) {
      control.value = BEGIN[field?.name] ?? "";
      tell("");
    }
    system.control.focus();
  };
  const ends = make(
    "div",
    { class: "ends" },
    make("button", { type: "button", click: reset }, say("reset")),
    make("button", { type: "submit", class: "main" }, say("done")),
  );
  const form = make(
    "form",
    { class: "inside-form", novalidate: true, submit },
    system.root,
    make("h3", {}, say("sampling")),
    make("p", { class: "aside" }, say("sampling_note")),
    make("div", { class: "pair" }, ...numbers.map((one) => one.root)),
    stops.root,
    ends,
  );
  const dialog = openDialog(say("settings"), [form], { sheet: true });
  return dialog;
};
