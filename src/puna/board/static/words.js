// Numbers as the pages write them: the same digits as puna.words and puna.board write on the server.
"use strict";
(() => {
  const PUNA = (window.PUNA = window.PUNA || {});
  const DASH = "\u2013";
  const THIN = "\u202f";
  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  const minus = (text) => (/^-0(\.0*)?$/.test(text) ? text.slice(1) : text.replace("-", "\u2212"));

  // A fixed count of decimals; halves go to the even digit, as in Python. Only odd multiples of 2^-(places + 1) are halves in binary.
  const fixed = (value, places) => {
    const text = value.toFixed(places);
    const halves = Math.abs(value) * 2 ** (places + 1);
    if (!Number.isInteger(halves) || halves % 2 === 0) return text;
    const last = Number(text.at(-1));
    return last % 2 === 0 ? text : text.slice(0, -1) + (last - 1);
  };

  PUNA.plain = (value) => minus(fixed(value, 1)).replace(/\.0$/, "").replace("\u2212", "-"); // a pixel: one decimal at most
  PUNA.decimal = (value, places = 3) => (known(value) ? minus(fixed(value, places)) : DASH);
  PUNA.percent = (share, places = 1) => (known(share) ? `${PUNA.decimal(100 * share, places)}${THIN}%` : DASH);
  PUNA.whole = (value) => (known(value) ? Math.round(value).toLocaleString("en") : DASH);

  // A count in three figures: 34.0 B, 265 k.
  PUNA.compact = (value) => {
    if (!known(value)) return DASH;
    for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${figures(value / size)}${THIN}${unit}`;
    }
    return fixed(value, 0);
  };
  const figures = (value) => fixed(value, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));

  // A round count for an axis: 2.5 M.
  PUNA.axisCount = (value) => {
    for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(6))}${THIN}${unit}`;
    }
    return `${Number(value.toPrecision(6))}`;
  };

  PUNA.pValue = (p) => {
    if (!known(p)) return DASH;
    return p < 1e-4 ? "< 0.0001" : p < 0.01 ? fixed(p, 4) : fixed(p, 2);
  };

  // A score on a task's own scale: shares in per cent without the sign. `normalised`: a share whatever the task's unit is.
  PUNA.score = (value, task, normalised = false) => {
    if (!known(value)) return DASH;
    if (normalised || task.unit === "share") return PUNA.decimal(100 * value, 1);
    return PUNA.decimal(value, task.unit === "bits per byte" ? 3 : 1);
  };
  PUNA.signed = (value, task, normalised = false) => {
    const text = PUNA.score(value, task, normalised);
    return known(value) && value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
  };
  PUNA.interval = (low, high, task, signs = false, normalised = false) => {
    if (!known(low) || !known(high)) return "";
    const say = signs ? PUNA.signed : PUNA.score;
    return `${say(low, task, normalised)} to ${say(high, task, normalised)}`;
  };
  // A name on one line, shortened in its middle, as in puna.words.
  PUNA.brief = (text, most = 90) => {
    const all = Array.from(text);
    const few = all.length <= 4 * most ? text : all.slice(0, 2 * most).join("") + all.slice(-2 * most).join("");
    const line = Array.from(PUNA.clean(few).split(/\s+/u).filter(Boolean).join(" "));
    const last = Math.floor(most / 3);
    return line.length <= most ? line.join("") : `${line.slice(0, most - last - 1).join("")}\u2026${line.slice(-last).join("")}`;
  };
  PUNA.listed = (items) => (items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`);
})();
