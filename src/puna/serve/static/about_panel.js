// "About this model": GET /about/MODEL as a sheet. In: names of models. Out: facts, scores with their intervals and the level of chance,
// what is its maker's own and what is inherited, licences. The server's sentences are English and shown as text; names that recur are
// said in the reader's language.
import * as server from "./server.js";
import { failureText } from "./failures.js";
import { intervalPlot } from "./interval_plot.js";
import { make } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { language, say, whole } from "./words.js";
import { visible } from "./visible.js";

// What the server calls things -> the key of our word for it.
export const NAMES = {
  "Parameters": "fact_parameters", "Architecture": "fact_architecture", "Vocabulary": "fact_vocabulary", "Context": "fact_context",
  "Trained on": "fact_trained", "Made": "fact_made", "Served in": "fact_served", "SHA-256": "fact_digest",
  "held-out text, bits per byte": "task_heldout", "four-choice quiz about functions": "task_quiz", "functions written that parse": "task_parse",
  "base": "of_base", "chat": "of_chat", "These weights": "licence_weights",
  "same": "verdict_same", "derived": "verdict_derived", "independent": "verdict_independent", "cannot tell": "verdict_unknown",
  "not decidable from outside": "verdict_outside",
  "names": "layer_names", "architecture": "layer_architecture", "tokenizer": "layer_tokenizer", "weights": "layer_weights", "data": "layer_data", "licence": "layer_licence",
};
const word = (name) => (Object.hasOwn(NAMES, name) ? say(NAMES[name]) : visible(String(name)));

const text = (tag, sentence, attributes = {}) => make(tag, { lang: "en", ...attributes }, visible(String(sentence)));
const section = (title, ...content) => make("section", {}, make("h4", {}, title), ...content);
const list = (sentences) => make("ul", {}, ...sentences.map((one) => text("li", one)));
// A digest has no spaces: it is written small, in letters of one width.
const value = (said) => text("dd", said, { class: /^[0-9a-f]{40,}$/.test(said) ? "digest" : null });
const rows = (facts) => make("dl", { class: "rows" }, ...facts.map(({ name, value: said }) => make("div", {}, make("dt", {}, word(name)), value(said))));

// ---- Scores ----

// A share (0 to 1, more is better) is written in per cent; anything else on a scale of its own, from nought to what guessing gets.
const scaleOf = ({ value, low, high, chance, higher_is_better: higher }) => {
  const share = higher && [value, low ?? 0, high ?? 1, chance ?? 0].every((one) => one >= 0 && one <= 1);
  if (share) return { least: 0, most: 1, say: (one) => `${(100 * one).toFixed(1).replace(/\.0$/, "")} %` };
  const most = Math.max(value, high ?? value, chance ?? value, 1e-9);
  const digits = most < 10 ? 3 : most < 100 ? 2 : 1;
  return { least: Math.min(0, value, low ?? 0), most, say: (one) => one.toFixed(digits).replace(/\.?0+$/, "") };
};

const scoreRow = (score) => {
  const scale = scaleOf(score);
  const [value, low, high] = [score.value, score.low, score.high].map((one) => (one === null ? "" : scale.say(one)));
  const interval = score.low === null ? say("no_interval") : say("interval", { low, high });
  const chance = score.chance === null ? say("score_no_chance") : say("score_chance", { chance: scale.say(score.chance) });
  const way = say(score.higher_is_better ? "higher" : "lower");
  const facts = [interval, chance, score.n ? say("score_n", { n: whole(score.n) }) : "", way].filter(Boolean).join(" · ");
  const chanceWord = score.chance === null ? "" : say("chance_at", { chance: scale.say(score.chance) });
  return make(
    "li",
    { class: "score" },
    make("p", { class: "name" }, make("span", {}, `${word(score.name)} `, make("small", {}, `(${word(score.of)})`)), make("b", {}, value)),
    intervalPlot({ ...score, ...scale, chanceWord }),
    make("p", { class: "aside" }, facts),
    score.note && text("p", score.note, { class: "aside" }),
  );
};

const scores = (about) =>
  about.scores.length
    ? section(say("scores"), make("p", { class: "aside" }, say("scores_note")), make("ul", { class: "scores" }, ...about.scores.map(scoreRow)))
    : section(say("scores"), text("p", about.no_scores));

// ---- Where it comes from ----

const compared = ({ reference, layers }) =>
  make(
    "div",
    { class: "compared" },
    make("h5", {}, say("compared_with", { model: visible(reference) })),
    make(
      "dl",
      { class: "rows" },
      ...layers.map(({ layer, verdict, sentence }) => make("div", {}, make("dt", {}, word(layer)), make("dd", {}, make("b", {}, word(verdict)), make("br"), text("span", sentence)))),
    ),
  );

const card = (about) => [
  text("p", about.kind === "chat" ? say("kind_chat") : say("kind_base"), { lang: null }),
  rows(about.facts),
  ...about.notes.map((note) => text("p", note, { class: "aside" })),
  scores(about),
  section(say("own"), about.own.length ? list(about.own) : make("p", {}, say("own_unknown"))),
  section(say("inherited"), list(about.inherited)),
  section(say("compared"), about.not_compared ? text("p", about.not_compared, { class: "aside" }) : null, ...about.compared.map(compared)),
  section(say("licences"), rows(about.licences)),
];

const fill = async (place, name) => {
  const shown = [make("h3", {}, visible(name))];
  try {
    place.replaceChildren(...shown, make("p", { class: "aside", role: "status" }, say("about_loading")));
    const about = await server.about(name);
    place.replaceChildren(...shown, ...card(about));
  } catch (error) {
    const again = make("button", { type: "button", click: () => fill(place, name) }, say("retry"));
    place.replaceChildren(...shown, make("div", { class: "failure", role: "alert" }, make("p", {}, `${say("about_failed")} ${failureText(error, name)}`), again));
    if (!(error instanceof server.ServerError)) console.error(error); // a mistake of the page's own
  }
};

export const openAbout = (names) => {
  const places = [...new Set(names)].map((name) => [name, make("article", { class: "card", "aria-label": visible(name) })]);
  const note = language() === "en" ? [] : [make("p", { class: "aside" }, say("about_english"))];
  openDialog(say("about"), [...note, ...places.map(([, place]) => place)], { sheet: true });
  for (const [name, place] of places) void fill(place, name);
};
