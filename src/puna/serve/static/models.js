// The models of the server: what the page knows of each, the pickers, and what an empty conversation says.
import { make } from "./dom.js";
import { say, whole } from "./words.js";
import { visible } from "./visible.js";

// From the entries of GET /v1/models: { id, chats, context }. A server that does not say whether a model chats is taken to.
export const addModels = (entries) =>
  entries.map((one) => ({ id: one.id, chats: one.chats !== false, context: Number.isFinite(one.context_length) ? one.context_length : null }));

export const modeOf = (models, name) => (models.find((one) => one.id === name)?.chats === false ? "text" : "chat");

export const contextOf = (models, name) => models.find((one) => one.id === name)?.context ?? null;

export const fillPicker = (select, models, chosen) => {
  select.replaceChildren(...models.map((one) => make("option", { value: one.id }, visible(one.id))));
  select.disabled = models.length === 0;
  if (chosen !== undefined) select.value = chosen;
};

export const emptyStart = (models, names) => {
  const chosen = names.map((name) => models.find((one) => one.id === name)).filter(Boolean);
  const title = chosen.map((one) => visible(one.id)).join(" · ");
  const facts = chosen.length === 1 && chosen[0].context !== null ? say("context_of", { n: whole(chosen[0].context) }) : "";
  const text = chosen.length > 0 && chosen.every((one) => !one.chats);
  return make(
    "div",
    { class: "start" },
    make("h2", {}, title || say("page")),
    text && make("p", { class: "summary" }, say("empty_text")),
    make("p", { class: "aside" }, [facts, say("empty")].filter(Boolean).join(" · ")),
  );
};
