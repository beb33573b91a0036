// What the page says, in two languages. The tables are words_en.js and words_zh.js; elements with data-say get their text from them,
// those with data-label an accessible name (and a tip), those with data-hint a placeholder.
import en from "./words_en.js";
import zh from "./words_zh.js";
import { looks } from "./looks.js";

const TABLES = { en, zh };
export const language = () => (document.documentElement.lang.startsWith("zh") ? "zh" : "en");

// say("tokens", { n: 3 }): the text with its values put in. A text for one thing is kept under "<key>.one".
export const say = (key, values = {}) => {
  const table = TABLES[language()];
  const text = (values.n === 1 ? table[`${key}.one`] : undefined) ?? table[key];
  if (text === undefined) throw new Error(`no text for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
};

// Writes the page's own texts, here and below.
export const speak = (root = document) => {
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
    element.title = say(element.dataset.label);
  }
  for (const element of root.querySelectorAll("[data-hint]")) element.placeholder = say(element.dataset.hint);
};

export const setLanguage = (next) => {
  document.documentElement.lang = next === "zh" ? "zh-Hans" : "en";
  looks.keep("language", next);
  document.title = say("page");
  speak();
};

// Numbers as people read them: 12, 1.4, 0.083.
export const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2));
export const whole = (value) => Math.round(value).toLocaleString("en");
