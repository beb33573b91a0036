// The table of the first page: a choice of tasks and a scale gives means, intervals, order and rank sets anew; filters hide rows.
// The choice stands in the address after #. Without this script the page shows the board's own choice, whole.
"use strict";
(() => {
  const PUNA = window.PUNA;
  const board = window.PUNA_BOARD;
  const table = document.getElementById("board");
  const picker = document.getElementById("picker");
  if (!board || !table || !picker) return;
  const { make } = PUNA;
  const said = document.getElementById("said");
  const [ranked, unranked] = [document.getElementById("ranked"), document.getElementById("unranked")];
  const rowOf = new Map([...table.querySelectorAll("tbody tr[data-model]")].map((row) => [Number(row.dataset.model), row]));
  const cell = (m, column) => rowOf.get(m).querySelector(`[data-col="${column}"]`);
  const boxes = [...picker.querySelectorAll('input[name="task"]')];
  const scales = [...picker.querySelectorAll('input[name="scale"]')];
  const buttons = [...picker.querySelectorAll("button[data-preset]")];
  const begin = board.presets.find((preset) => preset.id === board.start) || board.presets[0];
  const SHARE = { unit: "share" };
  const state = { tasks: begin ? [...begin.tasks] : [], scale: "raw", sort: null };
  const filter = { text: "", least: "", most: "", licence: "" };
  let before = null; // the ranking that stood there, to say what changed

  // ---- The address ----
  const same = (left, right) => left.length === right.length && left.every((one, at) => one === right[at]);
  const write = () => {
    const kept = new URLSearchParams();
    if (!begin || !same(state.tasks, begin.tasks)) kept.set("tasks", state.tasks.map((t) => board.tasks[t].slug).join(","));
    if (state.scale !== "raw") kept.set("scale", state.scale);
    if (state.sort) kept.set("sort", `${state.sort.column}.${state.sort.direction}`);
    for (const [key, value] of Object.entries(filter)) if (value) kept.set(key, value);
    PUNA.keep(kept);
  };
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const allowed = boxes.map((box) => Number(box.value));
    if (given.has("tasks")) {
      const named = given.get("tasks").split(",");
      state.tasks = allowed.filter((t) => named.includes(board.tasks[t].slug));
    } else {
      state.tasks = begin ? [...begin.tasks] : [];
    }
    state.scale = scales.some((scale) => scale.value === given.get("scale")) ? given.get("scale") : "raw";
    const [column, direction] = (given.get("sort") || "").split(".");
    const heads = table.tHead.rows[0].cells;
    const fits = ["ascending", "descending"].includes(direction) && heads[Number(column)] && heads[Number(column)].querySelector(".sort");
    state.sort = fits ? { column: Number(column), direction } : null;
    for (const key of Object.keys(filter)) filter[key] = given.get(key) || "";
  };

  // ---- The table ----
  const value = (text) => make("b", { class: "value" }, text);
  const interval = (low, high, task, normalised) =>
    low === null || low === undefined
      ? make("span", { class: "interval none" }, "no interval")
      : make("span", { class: "interval" }, PUNA.interval(low, high, task, false, normalised));

  // A task's scores on the chosen scale. What has no such scale (bits per byte) stays as it is.
  const rescale = (m, t) => {
    const score = board.scores[m][t];
    const box = rowOf.get(m).querySelector(`td[data-task="${t}"]`);
    if (!box || !score || score.failed !== undefined) return;
    const [shown, range] = [box.querySelector(".value"), box.querySelector(".interval")];
    if (!shown) return;
    const unknown = state.scale !== "raw" && board.tasks[t].in_mean && (score.norm === null || score.norm === undefined);
    const normalised = state.scale !== "raw" && score.norm !== null && score.norm !== undefined;
    const number = normalised ? (state.scale === "clipped" ? score.clip : score.norm) : score.v;
    shown.textContent = unknown ? "not known" : PUNA.score(number, board.tasks[t], normalised);
    if (!range) return;
    const known = unknown ? false : normalised ? score.norm_var !== null && score.norm_var !== undefined : score.lo !== null && score.lo !== undefined;
    const half = normalised && known ? board.z * Math.sqrt(score.norm_var) : 0;
    const [low, high] = normalised ? [number - half, number + half] : [score.lo, score.hi];
    range.textContent = known ? PUNA.interval(low, high, board.tasks[t], false, normalised) : "no interval";
    range.classList.toggle("none", !known);
  };

  const fillRow = ({ m, mean, lo, hi, low, high }) => {
    const rank = cell(m, "rank");
    rank.textContent = PUNA.ranks({ low, high });
    rank.classList.remove("none");
    rank.dataset.sort = String(low + high / 1000); // by the best rank, then by the worst
    const box = cell(m, "mean");
    box.replaceChildren(value(PUNA.score(mean, SHARE)), " ", interval(lo, hi, SHARE));
    box.dataset.sort = String(mean);
    ranked.append(rowOf.get(m));
  };
  const emptyRow = ({ m, tasks }) => {
    const rank = cell(m, "rank");
    rank.textContent = "none";
    rank.classList.add("none");
    rank.dataset.sort = "";
    const box = cell(m, "mean");
    const scored = (t) => board.scores[m][t] && board.scores[m][t].failed === undefined; // then only chance is not known
    const names = tasks.map((t) => PUNA.brief(board.tasks[t].title, 60) + (scored(t) ? " (its chance level)" : ""));
    box.replaceChildren(make("span", { class: "none wrap" }, names.length ? `lacks ${names.join(", ")}` : "no task chosen"));
    box.dataset.sort = "";
    unranked.append(rowOf.get(m));
  };

  // ---- What the page says about it: the same sentences as puna.board.pages writes ----
  const named = (m, most = 40) => PUNA.brief(board.models[m].name, most);
  const counted = (number, one) => `${number ? PUNA.whole(number) : "no"} ${number === 1 ? one : `${one}s`}`;
  const summary = ({ rows, apart }) => {
    if (!boxes.length) return "No model has a score on a task that can be averaged.";
    if (!state.tasks.length) return "No task is chosen: there is no mean and no rank.";
    if (!rows.length) return "No model has all the chosen tasks.";
    const over = `mean of ${counted(state.tasks.length, "task")}`;
    if (rows.length === 1) return `One model is ranked by the ${over}: ${named(rows[0].m)}.`;
    const first = rows.filter(({ low }) => low === 1).map(({ m }) => named(m));
    const shown = first.length <= 4 ? PUNA.listed(first) : `${first.slice(0, 3).join(", ")} and ${first.length - 3} more`;
    const ahead =
      first.length === 1
        ? `${first[0]} leads on the ${over}, and no other model can have the first rank.`
        : `${named(rows[0].m)} has the highest ${over}, but the data do not tell which of ${shown} is first.`;
    return `${ahead} ${PUNA.whole(apart.size)} of ${counted((rows.length * (rows.length - 1)) / 2, "pair")} of models can be told apart.`;
  };
  const caption = ({ lacking }) => {
    const titles = state.tasks.map((t) => PUNA.brief(board.tasks[t].title, 40));
    if (!titles.length) return "Scores";
    const scale = { raw: "", clipped: ", chance taken off and clipped at nought", unclipped: ", chance taken off" }[state.scale];
    const below = lacking.length ? `; ${counted(lacking.length, "model")} without a rank below` : "";
    return `Scores in per cent with 95 % intervals, ranked by the plain mean of ${PUNA.listed(titles)}${scale}${below}`;
  };

  // ---- The drawings ----
  const scaleWords = { raw: "", clipped: ", chance is nought", unclipped: ", chance is nought" };
  const draw = ({ rows, apart }) => {
    const marks = rows.map(({ m, mean, lo, hi, low, high }) => ({
      label: board.models[m].name, value: 100 * mean, lo: lo === null ? null : 100 * lo, hi: hi === null ? null : 100 * hi,
      low, high, size: board.models[m].parameters, words: PUNA.score(mean, SHARE),
    }));
    const at = new Map(rows.map(({ m }, k) => [m, k]));
    const told = new Set([...apart].map((pair) => pair.split("-").map((m) => at.get(Number(m))).join("-")));
    const axis = `mean of ${PUNA.count(state.tasks.length, "task")}${scaleWords[state.scale]}, per cent`;
    const drawings = {
      intervals: (name, width) => PUNA.intervalPlot(marks, name, width, axis),
      ties: (name, width) => PUNA.tiePlot(marks, told, name, width),
      size: (name, width) => PUNA.sizePlot(marks, name, width, axis),
    };
    for (const [id, plot] of Object.entries(drawings)) {
      const figure = document.getElementById(`${id}-figure`);
      if (!figure) continue;
      for (const [kind, width] of [["wide", 920], ["narrow", 340]]) {
        const place = figure.querySelector(`.${kind}`);
        const drawing = place ? plot(`${id}-${kind}`, width) : null;
        if (place) place.replaceChildren(drawing || make("p", { class: "none" }, "Too few models have all the chosen tasks."));
      }
    }
  };
  PUNA.draw = draw; // the tests hold it beside the server's drawing

  // ---- What changed, in words ----
  const spoken = (ranking) => {
    if (!state.tasks.length) return "No task is chosen: there is no mean and no rank.";
    const { rows, lacking } = ranking;
    const scale = { raw: "raw scores", clipped: "chance is nought, clipped", unclipped: "chance is nought" }[state.scale];
    const parts = [`Mean of ${PUNA.count(state.tasks.length, "task")}, ${scale}: ${PUNA.count(rows.length, "model")} ranked${lacking.length ? `, ${lacking.length} lacking a task` : ""}.`];
    if (before) {
      const old = new Map(before.rows.map((row, at) => [row.m, { at, ranks: PUNA.ranks(row) }]));
      const moved = rows.filter((row) => old.has(row.m) && old.get(row.m).ranks !== PUNA.ranks(row));
      const order = rows.filter((row, at) => old.has(row.m) && old.get(row.m).at !== at);
      if (moved.length) {
        const few = moved.slice(0, 4).map((row) => `${named(row.m)} ${PUNA.ranks(row)} (was ${old.get(row.m).ranks})`);
        parts.push(`Rank sets that changed: ${few.join("; ")}${moved.length > 4 ? `; and ${moved.length - 4} more` : ""}.`);
      } else {
        parts.push(order.length ? "The order changed, no rank set did." : "No rank changed.");
      }
    }
    return parts.join(" ");
  };

  // ---- All of it ----
  const show = ({ silent = false } = {}) => {
    const ranking = PUNA.rank(board, state.tasks, state.scale);
    ranking.rows.forEach(fillRow);
    ranking.lacking.forEach(emptyRow);
    for (const m of rowOf.keys()) board.tasks.forEach((_, t) => rescale(m, t));
    for (const box of table.querySelectorAll("[data-task]")) {
      box.classList.toggle("off", !state.tasks.includes(Number(box.dataset.task)));
    }
    const head = table.querySelector('th[data-col="mean"]');
    const words = `mean of ${PUNA.count(state.tasks.length, "task")}`;
    (head.querySelector("button") || head).firstChild.textContent = words;
    if (state.sort) PUNA.sort(table, state.sort.column, state.sort.direction);
    else PUNA.unsort(table);
    for (const button of buttons) {
      const preset = board.presets.find(({ id }) => id === button.dataset.preset);
      button.setAttribute("aria-pressed", String(Boolean(preset) && same(preset.tasks, state.tasks)));
    }
    for (const box of boxes) box.checked = state.tasks.includes(Number(box.value));
    for (const scale of scales) scale.checked = scale.value === state.scale;
    const [sentence, title] = [document.querySelector("main > .summary"), table.caption];
    if (sentence) sentence.textContent = summary(ranking);
    if (title) title.textContent = caption(ranking);
    draw(ranking);
    sift({ silent: true });
    if (said && !silent) said.textContent = spoken(ranking);
    before = ranking;
  };

  picker.addEventListener("submit", (event) => event.preventDefault());
  picker.addEventListener("change", () => {
    state.tasks = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    state.scale = scales.find((scale) => scale.checked).value;
    show();
    write();
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      state.tasks = [...board.presets.find(({ id }) => id === button.dataset.preset).tasks];
      state.sort = null;
      show();
      write();
    });
  }
  table.addEventListener("sorted", ({ detail }) => {
    state.sort = detail;
    const head = table.tHead.rows[0].cells[detail.column];
    const name = head.querySelector("a") ? head.querySelector("a").textContent : (head.querySelector("button").firstChild || head).textContent;
    if (said) said.textContent = `Sorted by ${name.trim()}, ${detail.direction}.`;
    write();
  });

  // ---- Filters: rows are hidden, ranks stay those among all ----
  const controls = {};
  const sift = ({ silent = false } = {}) => {
    const sized = (m, key, fits) => {
      const wanted = Number.parseFloat(filter[key]);
      return !Number.isFinite(wanted) || (board.models[m].parameters !== null && fits(board.models[m].parameters, wanted * 1e6));
    };
    let shown = 0;
    for (const [m, row] of rowOf) {
      const { name, licence } = board.models[m];
      const fits =
        name.toLocaleLowerCase().includes(filter.text.trim().toLocaleLowerCase()) &&
        sized(m, "least", (size, wanted) => size >= wanted) && sized(m, "most", (size, wanted) => size <= wanted) &&
        (!filter.licence || licence === filter.licence);
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    for (const [key, control] of Object.entries(controls)) if (control.value !== filter[key]) control.value = filter[key];
    if (said && !silent) {
      said.textContent = shown === rowOf.size ? `All ${PUNA.count(shown, "model")} shown.` : `${shown} of ${PUNA.count(rowOf.size, "model")} shown; ranks are those among all.`;
    }
  };
  const filters = () => {
    let place = document.getElementById("filters");
    if (!place) {
      place = make("div", { id: "filters", class: "needs-js" });
      (table.closest(".table-scroll") || table).before(place);
    }
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "Which models to show");
    const licences = [...new Set(board.models.map(({ licence }) => licence).filter(Boolean))].sort();
    controls.text = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    controls.least = make("input", { type: "number", min: 0, step: "any", autocomplete: "off" });
    controls.most = make("input", { type: "number", min: 0, step: "any", autocomplete: "off" });
    controls.licence = make("select", { autocomplete: "off" }, make("option", { value: "" }, "any"), ...licences.map((one) => make("option", { value: one }, PUNA.brief(one, 40))));
    const labels = { text: "Name holds", least: "From million parameters", most: "To million parameters", licence: "Licence" };
    for (const [key, control] of Object.entries(controls)) {
      place.append(make("label", {}, labels[key], control));
      control.addEventListener(key === "licence" ? "change" : "input", () => {
        filter[key] = control.value;
        sift();
        write();
      });
    }
  };

  const start = () => {
    read();
    show({ silent: true });
  };
  filters();
  start();
  window.addEventListener("hashchange", () => {
    if (!location.hash || location.hash.includes("=")) start(); // else it leads to a place in the page
  });
})();
