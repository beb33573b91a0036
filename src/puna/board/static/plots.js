// The drawings of puna.board.plots, drawn again in the page for another choice of tasks: the same marks, the same pixels (a test
// holds the two side by side). Labels are text nodes.
"use strict";
(() => {
  const PUNA = (window.PUNA = window.PUNA || {});
  const SVG = "http://www.w3.org/2000/svg";
  const NARROW = 500;
  const LETTER = 7.7;
  const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{20000}-\u{3fffd}]/u;
  const KEY_FIRST = "may be the best: no other is significantly better";
  const KEY_BEHIND = "at least one other is significantly better";
  const { max, min, log, log10 } = Math;

  // ---- puna.svg ----
  const pixel = (value) => (typeof value === "number" ? PUNA.plain(value) : String(value));
  const element = (tag, attributes, ...children) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, pixel(value));
    made.append(...children);
    return made;
  };
  const label = (x, y, text, kind = "label", anchor = "start") =>
    element("text", { x, y, class: kind, "text-anchor": anchor }, PUNA.clean(text));
  const line = (x1, y1, x2, y2, kind) => element("line", { x1, y1, x2, y2, class: kind });
  const mark = (shape, x, y, kind, size = 5.5) => {
    if (shape === "circle") return element("circle", { cx: x, cy: y, r: size * 0.92, class: kind });
    if (shape === "square") {
      return element("rect", { x: x - size * 0.85, y: y - size * 0.85, width: size * 1.7, height: size * 1.7, class: kind });
    }
    const corners = [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]].map(([dx, dy]) => `${pixel(x + size * dx)} ${pixel(y + size * dy)}`);
    return element("path", { d: `M${corners.join("L")}Z`, class: kind });
  };
  const whisker = (low, high, y, kind) => [
    line(low, y, high, y, kind), line(low, y - 5, low, y + 5, kind), line(high, y - 5, high, y + 5, kind),
  ];
  const scale = (low, high, start, end, logarithmic = false) => {
    const at = (value) => {
      const held = min(max(value, low), high);
      const share = logarithmic ? log(held / low) / log(high / low) : (held - low) / (high - low);
      return start + share * (end - start);
    };
    return Object.assign(at, { low, high, start, end });
  };
  const linearTicks = (low, high, wished) => {
    if (high <= low) return [low];
    const rough = (high - low) / max(1, wished);
    const power = 10 ** Math.floor(log10(rough));
    const nice = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999);
    const step = nice === undefined ? 10 * power : nice * power;
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at <= Math.floor(high / step + 1e-9); at += 1) found.push(at * step);
    return found;
  };
  const logTicks = (low, high, wished) => {
    let ticks = [];
    for (const mantissas of [
      [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 4, 6, 8], [1, 2, 4], [1, 3], [1],
    ]) {
      ticks = [];
      for (let power = Math.floor(log10(low)); power <= Math.ceil(log10(high)); power += 1) {
        for (const m of mantissas) if (low <= m * 10 ** power && m * 10 ** power <= high) ticks.push(m * 10 ** power);
      }
      if (ticks.length <= wished) return ticks;
    }
    const each = Math.ceil(ticks.length / wished);
    return ticks.filter((_, at) => at % each === 0);
  };
  const tickLabel = (value) => String(Number(value.toPrecision(6)));
  const frame = (name, width, height, title, description, body) =>
    element(
      "svg",
      { viewBox: `0 0 ${width} ${pixel(height)}`, width, height, role: "img", "aria-labelledby": `${name}-title ${name}-desc`, class: "plot" },
      element("title", { id: `${name}-title` }, PUNA.clean(title)),
      element("desc", { id: `${name}-desc` }, PUNA.clean(description)),
      ...body,
    );

  // ---- puna.board.plots ----
  const letters = (text) => Array.from(text);
  const long = (text) => LETTER * letters(text).reduce((all, letter) => all + (WIDE.test(letter) ? 2 : 1), 0);
  const fitting = (text, room) => (text ? max(4, Math.trunc(room / (long(text) / letters(text).length))) : 4);
  const words = (m) => m.words || PUNA.decimal(m.value, 1);
  const ranks = (m) => (m.low === null ? "" : PUNA.ranks(m));
  const first = (m) => m.low === 1;
  const saidOf = (m) => {
    const ends = m.lo !== null && m.hi !== null ? ` (${PUNA.decimal(m.lo, 1)} to ${PUNA.decimal(m.hi, 1)})` : "";
    return `${PUNA.brief(m.label)} ${words(m)}${ends}`;
  };
  const ends = (m) => (m.lo === null || m.hi === null ? [m.value] : [m.lo, m.hi, m.value]);
  const span = (all) => {
    const margin = max((max(...all) - min(...all)) * 0.04, 0.01);
    return [min(...all) - margin, max(...all) + margin];
  };

  const row = (m, across, y, width, narrow) => {
    const who = first(m) ? "own" : "rival";
    const body = [];
    if (narrow) {
      const aside = ranks(m) ? `${words(m)}  ·  ${ranks(m)}` : words(m);
      const room = width - long(aside) - 12;
      body.push(label(0, y - 13, PUNA.brief(m.label, fitting(m.label, room)), `label ${who}-name`));
      body.push(label(width - 1, y - 13, aside, "value", "end"));
    } else {
      body.push(label(0, y + 4.5, PUNA.brief(m.label, fitting(m.label, across.start - 16)), `label ${who}-name`));
      body.push(label(width - (ranks(m) ? 78 : 1), y + 4.5, words(m), `value ${who}-name`, "end"));
      if (ranks(m)) body.push(label(width - 1, y + 4.5, ranks(m), "tick", "end"));
    }
    if (m.lo !== null && m.hi !== null) body.push(...whisker(across(m.lo), across(m.hi), y, `${who}-whisker`));
    body.push(mark(first(m) ? "diamond" : "circle", across(m.value), y, `${who}-mark`, 5));
    return body;
  };

  PUNA.intervalPlot = (marks, name, width, axis) => {
    if (!marks.length) return null;
    const narrow = width < NARROW;
    const [left, right, pitch, top] = narrow ? [8, width - 10, 46, 4] : [230, width - 150, 30, 26];
    const body = narrow ? [] : [label(width - 78, 14, "score", "axis-title", "end"), label(width - 1, 14, "rank", "axis-title", "end")];
    const floor = top + pitch * marks.length;
    const across = scale(...span(marks.flatMap(ends)), left, right);
    const ticks = linearTicks(across.low, across.high, narrow ? 4 : 8);
    body.push(...ticks.map((tick) => line(across(tick), top, across(tick), floor, "grid")));
    marks.forEach((m, at) => body.push(...row(m, across, top + pitch * at + (narrow ? 30 : pitch / 2), width, narrow)));
    body.push(...ticks.map((tick) => label(across(tick), floor + 17, tickLabel(tick), "tick", "middle")));
    body.push(line(left, floor, right, floor, "axis"), label(left, floor + 37, axis, "axis-title"));
    let height = floor + 44;
    if (marks.some((m) => m.low !== null)) {
      body.push(mark("diamond", left + 6, floor + 58, "own-mark", 5), label(left + 18, floor + 62, KEY_FIRST, "tick"));
      body.push(mark("circle", left + 6, floor + 78, "rival-mark", 5), label(left + 18, floor + 82, KEY_BEHIND, "tick"));
      height = floor + 90;
    }
    const said = marks.map((m) => saidOf(m) + (ranks(m) ? `, rank ${ranks(m)}` : "")).join("; ");
    return frame(name, width, height, "Scores with 95 % intervals, in rank order", `${said}.`, body);
  };

  const bow = (x, y1, y2, deep) => {
    const at = [x, y1, x + deep, y1, x + deep, y2, x, y2].map(pixel);
    return `M${at[0]} ${at[1]}C${at.slice(2).join(" ")}`;
  };
  const kinWords = (names) => {
    if (!names.length) return "told apart from every other";
    return names.length <= 2 ? PUNA.listed(names.map((name) => PUNA.brief(name, 20))) : `${names.length} others`;
  };

  // `apart`: a Set of "i-j", places in `marks`.
  PUNA.tiePlot = (marks, apart, name, width) => {
    const n = marks.length;
    if (n < 2) return null;
    const tied = [];
    for (let j = 0; j < n; j += 1) {
      for (let i = 0; i < j; i += 1) if (!apart.has(`${i}-${j}`) && !apart.has(`${j}-${i}`)) tied.push([i, j]);
    }
    const kin = marks.map((_, at) => tied.filter((pair) => pair.includes(at)).map(([i, j]) => (i === at ? j : i)));
    const narrow = width < NARROW;
    const [pitch, top, x, reach] = narrow ? [30, 24, 172, width - 186] : [30, 24, 300, 260];
    const body = [label(0, 12, "rank", "axis-title"), label(48, 12, "model", "axis-title")];
    if (!narrow) body.push(label(x + reach + 28, 12, "cannot be told apart from", "axis-title"));
    const ys = marks.map((_, at) => top + pitch * at + pitch / 2);
    for (const [i, j] of tied) {
      const deep = (reach * (0.16 + (0.84 * (j - i)) / (n - 1)) * 4) / 3;
      body.push(element("path", { d: bow(x, ys[i], ys[j], deep), class: "bow" }));
    }
    marks.forEach((m, at) => {
      const y = ys[at];
      body.push(label(0, y + 4.5, ranks(m), "tick"));
      body.push(label(48, y + 4.5, PUNA.brief(m.label, fitting(m.label, x - 62)), first(m) ? "label own-name" : "label"));
      body.push(kin[at].length ? mark("circle", x, y, "rival-mark", 5.5) : mark("square", x, y, "own-mark", 5.5));
      if (!narrow) body.push(label(x + reach + 28, y + 4.5, kinWords(kin[at].map((other) => marks[other].label)), "tick"));
    });
    const floor = ys[n - 1] + pitch / 2;
    body.push(mark("square", 6, floor + 14, "own-mark", 5), label(18, floor + 18, "told apart from every other", "tick"));
    body.push(mark("circle", 6, floor + 34, "rival-mark", 5));
    body.push(label(18, floor + 38, "tied: a bow joins what the data cannot separate", "tick"));
    const others = (at) => (kin[at].length ? PUNA.listed(kin[at].map((other) => PUNA.brief(marks[other].label))) : "told apart from every other");
    const said = marks.map((m, at) => `${PUNA.brief(m.label)}: ${others(at)}`).join("; ");
    const title = `Which models the data cannot tell apart: ${tied.length || "no"} ${tied.length === 1 ? "pair" : "pairs"} of ${(n * (n - 1)) / 2}`;
    return frame(name, width, floor + 46, title, `${said}.`, body);
  };

  const meet = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
  const names = (marks, spots, reaches, [left, top, right, bottom], most) => {
    const taken = spots.map(([x, y], at) => [x - 7, min(y - 7, reaches[at][0]), x + 7, max(y + 7, reaches[at][1])]);
    const body = [];
    const keys = [];
    marks.forEach((m, at) => {
      const [x, y] = spots[at];
      const [high, low] = reaches[at];
      const number = String(at + 1);
      let put = null;
      for (const text of [PUNA.brief(m.label, most), number]) {
        const wide = long(text);
        for (const [place, base, anchor, edge] of [
          [x + 10, y + 4.5, "start", x + 10], [x - 10, y + 4.5, "end", x - 10 - wide],
          [x, min(y - 7, high) - 4, "middle", x - wide / 2], [x, max(y + 7, low) + 13, "middle", x - wide / 2],
        ]) {
          const box = [edge, base - 11, edge + wide, base + 3];
          const inside = edge >= left && edge + wide <= right && base - 11 >= top - 8 && base + 3 <= bottom;
          if (put === null && inside && !taken.some((other) => meet(box, other))) {
            put = text;
            taken.push(box);
            body.push(label(place, base, text, first(m) ? "label own-name" : "label", anchor));
          }
        }
      }
      if (put === null) {
        put = number;
        body.push(label(x + 10, y + 4.5, number, "label"));
      }
      if (put === number) keys.push(`${number}: ${PUNA.brief(m.label, 40)}`);
    });
    return [body, keys];
  };

  PUNA.sizePlot = (marks, name, width, axis) => {
    const known = marks.filter((m) => m.size > 0);
    if (known.length < 2) return null;
    const narrow = width < NARROW;
    const [left, right, top, bottom] = narrow ? [34, width - 8, 26, 270] : [44, width - 12, 26, 350];
    const sizes = known.map((m) => m.size);
    const across = scale(min(...sizes) / 1.5, max(...sizes) * 1.5, left, right, true);
    const up = scale(...span(known.flatMap(ends)), bottom, top);
    const body = [label(0, 12, axis, "axis-title")];
    for (const tick of linearTicks(up.low, up.high, 6)) {
      body.push(line(left, up(tick), right, up(tick), "grid"), label(left - 7, up(tick) + 4, tickLabel(tick), "tick", "end"));
    }
    for (const tick of logTicks(across.low, across.high, narrow ? 4 : 8)) {
      body.push(line(across(tick), bottom, across(tick), bottom + 5, "axis"), label(across(tick), bottom + 19, PUNA.axisCount(tick), "tick", "middle"));
    }
    body.push(line(left, bottom, right, bottom, "axis"), label(right, bottom + 38, "parameters (log scale)", "axis-title", "end"));
    const spots = known.map((m) => [across(m.size), up(m.value)]);
    known.forEach((m, at) => {
      if (m.lo !== null && m.hi !== null) body.push(line(spots[at][0], up(m.lo), spots[at][0], up(m.hi), "rival-whisker"));
    });
    known.forEach((m, at) => body.push(mark(first(m) ? "diamond" : "circle", ...spots[at], first(m) ? "own-mark" : "rival-mark", 5.5)));
    const [labels, keys] = names(known, spots, known.map((m) => [min(...ends(m).map(up)), max(...ends(m).map(up))]), [left, top, right, bottom], narrow ? 16 : 30);
    body.push(...labels);
    let height = bottom + 46;
    for (const key of keys) {
      body.push(label(left, height + 12, key, "tick"));
      height += 18;
    }
    const said = known.map((m) => `${saidOf(m)} with ${PUNA.axisCount(Number(m.size.toPrecision(3)))} parameters`).join("; ");
    return frame(name, width, height, "Score against size", `${said}.`, body);
  };
})();
