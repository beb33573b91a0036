// The icons and texts of the fixed buttons.
import { byId, icon } from "./dom.js";
import { colours } from "./looks.js";
import { say } from "./words.js";

const ICONS = { new: "plus", data: "gear", help: "help", "show-sidebar": "menu", "hide-sidebar": "close", newest: "down", colours: "theme" };
const NAMED = { compare: "compare", settings: "sliders", about: "info" };

export const label = () => {
  const text = say("colours", { which: say(`colours_${colours()}`) });
  byId("colours").setAttribute("aria-label", text);
  byId("colours").title = text;
};

const named = (id, text) => {
  const words = document.createElement("span");
  words.textContent = text;
  return [icon(NAMED[id]), words];
};

export const dress = () => {
  for (const [id, name] of Object.entries(ICONS)) {
    byId(id).querySelector("svg")?.remove();
    byId(id).prepend(icon(name));
  }
  for (const id of Object.keys(NAMED)) byId(id).replaceChildren(...named(id, say(`${id}_short`)));
  byId("newest").setAttribute("aria-label", say("newest"));
  byId("newest").title = say("newest");
  const other = byId("language");
  other.textContent = say("other_language");
  other.lang = document.documentElement.lang.startsWith("zh") ? "en" : "zh-Hans";
  other.setAttribute("aria-label", say("other_language_label"));
  label();
};
