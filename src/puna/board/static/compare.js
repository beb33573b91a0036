// Two models side by side on one task, down to single items. Items and answers lie in script files beside the page (a page opened
// from a folder cannot fetch), which are asked for when they are needed. The choice stands in the address after #.
"use strict";
(() => {
  const PUNA = window.PUNA;
  const board = window.PUNA_BOARD;
  const form = document.getElementById("pair");
  if (!board || !form) return;
  const SIZE = 20; // items of one page
  const { make, clean, lang } = PUNA;
  const place = (id, tag = "div") => document.getElementById(id) || form.parentNode.appendChild(make(tag, { id }));
  const [first, second, chosenTask, differ] = ["a", "b", "task", "differ"].map((id) => document.getElementById(id));
  const [summary, list, pages, said] = [place("summary"), place("items"), place("pages", "nav"), place("said", "p")];
  list.tabIndex = -1;
  const state = { a: 0, b: 1, t: 0, page: 1, differ: false };
  let turn = 0; // counts what was asked for, so that a late answer to an older question is dropped

  // ---- Files ----
  window.PUNA_ITEMS = window.PUNA_ITEMS || {};
  const asked = new Map();
  const load = (key) => {
    if (!asked.has(key)) {
      const source = `${document.body.dataset.root || ""}items/${key.split("/").map(encodeURIComponent).join("/")}.js`;
      const wait = new Promise((resolve, reject) => {
        const script = make("script", { src: source });
        script.addEventListener("load", () => {
          if (window.PUNA_ITEMS[key]) resolve(window.PUNA_ITEMS[key]);
          else reject(new Error(`${source} holds something else`));
        });
        script.addEventListener("error", () => {
          asked.delete(key); // so that another try asks again
          reject(new Error(`${source} could not be read`));
        });
        document.head.append(script);
      });
      asked.set(key, wait);
    }
    return asked.get(key);
  };

  // ---- The address ----
  const slugs = (rows) => rows.map((row) => row.slug);
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const at = (rows, slug, otherwise) => {
      const found = slugs(rows).indexOf(slug);
      return found < 0 ? otherwise : found;
    };
    state.a = at(board.models, given.get("a"), 0);
    state.b = at(board.models, given.get("b"), state.a === 0 ? Math.min(1, board.models.length - 1) : 0);
    state.t = at(board.tasks, given.get("task"), usual());
    state.page = Math.max(1, Number.parseInt(given.get("page"), 10) || 1);
    state.differ = given.get("differ") === "1";
  };
  const usual = () => {
    const both = board.tasks.findIndex((_, t) => board.items[t] && board.answers[state.a][t] && board.answers[state.b][t]);
    return Math.max(0, both);
  };
  const write = () => {
    const kept = new URLSearchParams({
      a: board.models[state.a].slug,
      b: board.models[state.b].slug,
      task: board.tasks[state.t].slug,
    });
    if (state.page > 1) kept.set("page", state.page);
    if (state.differ) kept.set("differ", "1");
    PUNA.keep(kept);
  };

  // ---- Words ----
  const binary = (score) => score === 0 || score === 1;
  const asks = (answers, at) => (answers.asked ? answers.asked[at] === "1" : answers.scores[at] !== null && answers.scores[at] !== undefined);
  const verdict = (score, task, wasAsked) => {
    if (score === null || score === undefined) return wasAsked ? "no score: the answer was no number" : "not asked";
    if (task.unit === "bits per byte") return `${PUNA.decimal(score, 1)} bits`;
    if (binary(score)) return score === 1 ? "right" : "wrong";
    return `score ${PUNA.decimal(score, 3)}`;
  };
  const tone = (score, task) => (task.unit !== "bits per byte" && binary(score) ? (score === 1 ? "good" : "bad") : "");
  const nameOf = (m) => clean(board.models[m].name);
  const named = (m) => make("b", { class: "model-name", lang: lang(board.models[m].name) }, nameOf(m));
  const quoted = (tag, text, more = {}) => make(tag, { lang: lang(text), ...more }, clean(text));

  // ---- One item ----
  const outcome = (side, at, task) => {
    const score = side.answers.scores[at];
    const line = make("p", { class: "outcome" }, make("span", { class: "letter" }, side.letter), " ", named(side.m), ": ");
    line.append(make("b", { class: `verdict-word ${tone(score, task)}` }, verdict(score, task, asks(side.answers, at))));
    const notes = [];
    const { tie = [], cut = {}, dirty = {} } = side.answers;
    if (tie.includes(at)) notes.push("another choice was exactly as likely");
    if (cut[at]) notes.push(`${PUNA.count(cut[at], "token")} of the prompt cut: its context is too short`);
    if (dirty[at]) notes.push(`${PUNA.percent(dirty[at])} of the item stands in its training text`);
    for (const note of notes) line.append(" ", make("span", { class: "flag" }, note));
    return line;
  };

  const choice = (item, k, sides, at, task) => {
    const measure = task.kind === "quiz" ? "log-likelihood above that without the question" : "log-likelihood";
    const line = make("li", {}, quoted("span", item.choices[k], { class: "choice" }));
    const marks = [];
    if (item.target.includes(k)) marks.push(make("span", { class: "mark right-answer" }, "right answer"));
    for (const side of sides) {
      if (side.answers.answers[at] === k) marks.push(make("span", { class: "mark" }, `chosen by ${side.letter}`));
    }
    for (const mark of marks) line.append(" ", mark);
    const told = sides.map((side) => {
      const value = side.answers.ll && side.answers.ll[at] ? side.answers.ll[at][k] : null;
      return value === null || value === undefined ? null : `${side.letter} ${PUNA.decimal(value, 2)}`;
    });
    if (told.some(Boolean)) line.append(make("span", { class: "beside" }, ` ${measure}: ${told.filter(Boolean).join(", ")}`));
    return line;
  };

  const written = (item, sides, at) => {
    const box = make("dl", { class: "written" });
    const add = (what, text) => {
      if (text === null || text === undefined) return;
      box.append(make("div", {}, make("dt", {}, what), quoted("dd", String(text), { class: "said" })));
    };
    if (item.target.length) add("right answer", item.target.join("  |  "));
    for (const side of sides) add(`${side.letter} wrote`, side.answers.answers[at]);
    return box;
  };

  const prompts = (item, heads, sides, at) => {
    const common = (item.head === null || item.head === undefined ? "" : heads[item.head] || "") + (item.prompt || "");
    const own = sides.map((side) => (side.answers.prompts || {})[at]);
    const fold = (label, text) =>
      make("details", { class: "prompt" }, make("summary", {}, label), quoted("pre", text, { tabindex: "0" }));
    if (own.every((text) => text === undefined)) return common ? [fold("Whole prompt", common)] : [];
    return sides.map((side, k) => fold(`Whole prompt of ${side.letter}`, own[k] === undefined ? common : own[k]));
  };

  const article = (item, heads, sides, at, task) => {
    const id = `item-${at + 1}`;
    const about = [item.id, item.sub, item.cluster].filter(Boolean).map(clean).join(" · ");
    const box = make("article", { class: "item", "aria-labelledby": id });
    box.append(make("h3", { id }, `Item ${at + 1} `, make("span", { class: "beside" }, about)));
    box.append(quoted("p", item.q, { class: "question" }));
    if (item.choices.length) {
      box.append(make("ol", { class: "choices" }, ...item.choices.map((_, k) => choice(item, k, sides, at, task))));
    } else {
      box.append(written(item, sides, at));
    }
    box.append(...sides.map((side) => outcome(side, at, task)), ...prompts(item, heads, sides, at));
    return box;
  };

  // ---- The pair as a whole ----
  const paired = () => {
    const { a, b, t } = state;
    const detail = board.pairs_detail && board.pairs_detail[t];
    if (!detail || a === b) return null;
    const found = detail[PUNA.place(Math.min(a, b), Math.max(a, b), board.models.length)];
    if (!found || a < b) return found;
    const turned = (value) => (value === null || value === undefined ? value : -value);
    return { ...found, a_only: found.b_only, b_only: found.a_only, lo: turned(found.hi), hi: turned(found.lo) };
  };
  const difference = () => {
    const { a, b, t } = state;
    const value = board.pairs[t].d[PUNA.place(Math.min(a, b), Math.max(a, b), board.models.length)];
    return value === null || value === undefined ? null : a < b ? value : -value;
  };
  const figure = (what, value, beside = null) =>
    make("div", {}, make("dt", {}, what), make("dd", {}, make("b", {}, value), beside ? make("span", {}, beside) : null));

  const summarise = () => {
    const task = board.tasks[state.t];
    summary.replaceChildren(make("h2", { class: "hidden" }, "The two as a whole"));
    const sides = [state.a, state.b].map((m, k) => {
      const score = board.scores[m][state.t];
      const line = make("p", { class: "side" }, make("span", { class: "letter" }, "AB"[k]), " ", named(m), ": ");
      if (!score) line.append("not run on this task");
      else if (score.failed !== undefined) line.append(make("span", { class: "failed" }, `failed: ${clean(score.failed)}`));
      else {
        line.append(make("b", { class: "value" }, PUNA.score(score.v, task)));
        if (score.lo !== null) line.append(" ", make("span", { class: "interval" }, PUNA.interval(score.lo, score.hi, task)));
        if (score.n) line.append(make("span", { class: "beside" }, ` ${PUNA.count(score.n, "item")}`));
      }
      return line;
    });
    summary.append(...sides);
    const found = paired();
    if (!found) {
      const why = state.a === state.b ? "Choose two different models." : "These two cannot be compared item by item on this task.";
      summary.append(make("p", { class: "aside" }, why));
      return;
    }
    const box = make("dl", { class: "figures" });
    const value = difference();
    if (value !== null) {
      const range = found.lo === null || found.lo === undefined ? null : PUNA.interval(found.lo, found.hi, task, true);
      box.append(figure("A less B", PUNA.signed(value, task), range));
    }
    if (found.p !== null && found.p !== undefined) box.append(figure("p", PUNA.pValue(found.p), found.test || null));
    for (const [key, what] of [["both", "both right"], ["a_only", "only A right"], ["b_only", "only B right"], ["neither", "neither right"]]) {
      if (found[key] !== null && found[key] !== undefined) box.append(figure(what, PUNA.whole(found[key])));
    }
    if (found.more) box.append(figure("items to tell them apart", PUNA.whole(found.more), "for a power of 80 %"));
    if (found.visible) box.append(figure("smallest difference visible", PUNA.score(found.visible, task), "in four of five samples of this size"));
    summary.append(box);
  };

  // ---- The list ----
  const wanted = (sides, n) => {
    const all = Array.from({ length: n }, (_, at) => at);
    const shown = all.filter((at) => sides.some((side) => asks(side.answers, at)));
    return state.differ ? shown.filter((at) => sides[0].answers.scores[at] !== sides[1].answers.scores[at]) : shown;
  };

  const tell = (words) => {
    said.textContent = words;
  };

  const turner = (label, page, enabled) => {
    const button = make("button", { type: "button", disabled: !enabled, "data-page": page }, label);
    button.addEventListener("click", () => {
      state.page = page;
      show({ focus: true });
    });
    return button;
  };

  const paging = (count) => {
    pages.replaceChildren();
    pages.setAttribute("aria-label", "Pages of items");
    const last = Math.max(1, Math.ceil(count / SIZE));
    if (last < 2) return;
    const here = make("input", { type: "number", min: 1, max: last, id: "page-number", inputmode: "numeric", autocomplete: "off" });
    here.value = state.page;
    here.addEventListener("change", () => {
      state.page = Math.min(last, Math.max(1, Number.parseInt(here.value, 10) || 1));
      show({ focus: true });
    });
    const middle = make("span", { class: "page-of" }, make("label", { for: "page-number" }, "Page"), " ", here, ` of ${last}`);
    pages.append(
      turner("First", 1, state.page > 1), turner("Previous", state.page - 1, state.page > 1), middle,
      turner("Next", state.page + 1, state.page < last), turner("Last", last, state.page < last),
    );
  };

  const nothing = (words) => {
    list.replaceChildren(make("p", { class: "aside" }, words));
    pages.replaceChildren();
    tell(words);
  };

  const show = async ({ focus = false } = {}) => {
    turn += 1;
    const mine = turn;
    write();
    summarise();
    const { a, b, t } = state;
    const task = board.tasks[t];
    const known = board.items[t];
    const silent = [a, b].filter((m) => !board.answers[m][t]);
    if (!known) return nothing(`The store holds no single items of ${clean(task.title)}.`);
    if (silent.length) return nothing(`The store holds no single answers of ${silent.map(nameOf).join(" and ")} on ${clean(task.title)}.`);
    list.setAttribute("aria-busy", "true");
    try {
      const answers = await Promise.all([a, b].map((m) => load(`${task.slug}/${board.models[m].slug}`)));
      const sides = [a, b].map((m, k) => ({ m, letter: "AB"[k], answers: answers[k] }));
      const shown = wanted(sides, known.n);
      state.page = Math.min(state.page, Math.max(1, Math.ceil(shown.length / SIZE)));
      const piece = shown.slice((state.page - 1) * SIZE, state.page * SIZE);
      const chunks = [...new Set(piece.map((at) => Math.floor(at / known.chunk)))];
      const files = new Map(await Promise.all(chunks.map(async (k) => [k, await load(`${task.slug}/q${k}`)])));
      if (mine !== turn) return undefined;
      list.replaceChildren(
        make("h2", { class: "hidden" }, "Items"),
        ...piece.map((at) => {
          const file = files.get(Math.floor(at / known.chunk));
          return article(file.items[at % known.chunk], file.heads || [], sides, at, task);
        }),
      );
      write();
      paging(shown.length);
      const which = state.differ ? `${PUNA.count(shown.length, "item")} on which A and B differ` : PUNA.count(shown.length, "item");
      const from = (state.page - 1) * SIZE + 1;
      tell(piece.length ? `${which}; shown: ${from} to ${from + piece.length - 1}.` : `${which}.`);
      if (known.head_note) list.prepend(make("p", { class: "aside" }, clean(known.head_note)));
      if (focus) {
        list.focus({ preventScroll: true });
        said.scrollIntoView({ block: "start" });
      }
    } catch (wrong) {
      if (mine === turn) nothing(`The items cannot be shown: ${wrong.message}.`);
    } finally {
      if (mine === turn) list.removeAttribute("aria-busy");
    }
    return undefined;
  };

  // ---- The form ----
  const fill = (choice, rows, label) => {
    choice.replaceChildren(...rows.map((row, k) => make("option", { value: row.slug, lang: lang(label(row, k)) }, label(row, k))));
  };
  const reflect = () => {
    first.value = board.models[state.a].slug;
    second.value = board.models[state.b].slug;
    chosenTask.value = board.tasks[state.t].slug;
    differ.checked = state.differ;
  };
  if (!board.models.length || !board.tasks.length) return;
  fill(first, board.models, (row) => clean(row.name));
  fill(second, board.models, (row) => clean(row.name));
  fill(chosenTask, board.tasks, (row, k) => clean(row.title) + (board.items[k] ? "" : " (no items)"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    state.a = slugs(board.models).indexOf(first.value);
    state.b = slugs(board.models).indexOf(second.value);
    state.t = slugs(board.tasks).indexOf(chosenTask.value);
    state.differ = differ.checked;
    state.page = 1;
    show();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash && !location.hash.includes("=")) return; // it leads to a place in the page
    read();
    reflect();
    show();
  });
  read();
  reflect();
  show();
})();
