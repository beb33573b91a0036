// What a choice of tasks makes of the models: means, intervals, order, rank sets. Numbers in, numbers out; the page is not touched.
// The same sums in the same order as puna.judge.summary, so that both say the same: `PUNA_BOARD.expected` holds what Python found.
"use strict";
(() => {
  const PUNA = (window.PUNA = window.PUNA || {});

  // 1 - erf(x) for x >= 0. Below 2: the series erf(x) = 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1)/(2n+1)!!, whose terms are all positive
  // (Abramowitz & Stegun 7.1.6); above: the continued fraction (7.1.14), from its tail. Good to 1e-12 of the value.
  PUNA.erfc = (x) => {
    if (x < 0) return 2 - PUNA.erfc(-x);
    const scaled = Math.exp(-x * x) / Math.sqrt(Math.PI);
    if (x < 2) {
      let term = x;
      let sum = x;
      for (let n = 1; term > sum * 1e-17 && n < 200; n += 1) {
        term *= (2 * x * x) / (2 * n + 1);
        sum += term;
      }
      return 1 - 2 * scaled * sum;
    }
    let tail = x;
    for (let n = 120; n >= 1; n -= 1) tail = x + n / 2 / tail;
    return scaled / tail;
  };

  // Holm's step-down (1979): each p-value as it stands among the others, in the order given.
  PUNA.holm = (values) => {
    const order = values.map((_, at) => at).sort((a, b) => values[a] - values[b] || a - b);
    const adjusted = new Array(values.length);
    let most = 0;
    order.forEach((at, k) => {
      most = Math.max(most, Math.min(1, (values.length - k) * values[at]));
      adjusted[at] = most;
    });
    return adjusted;
  };

  PUNA.place = (i, j, models) => (i * (2 * models - i - 1)) / 2 + (j - i - 1); // of the pair i < j in the lists of pairs

  // The difference of two models' means over the tasks: {d, v, p}; p = 1 where one task cannot tell them apart.
  const difference = (board, tasks, i, j, normalised) => {
    const place = PUNA.place(i, j, board.models.length);
    let d = 0;
    let v = 0;
    for (const t of tasks) {
      const pairs = board.pairs[t];
      const one = normalised ? pairs.dn[place] : pairs.d[place];
      const variance = normalised ? pairs.vn[place] : pairs.v[place];
      if (one === null || variance === null || pairs.paired[place] === "x") return { d: 0, v: null, p: 1 };
      d += one;
      v += variance;
    }
    d /= tasks.length;
    v /= tasks.length * tasks.length;
    const p = v === 0 ? (d === 0 ? 1 : 0) : PUNA.erfc(Math.abs(d) / Math.sqrt(v) / Math.SQRT2);
    return { d, v, p };
  };

  // {rows: [{m, mean, lo, hi, low, high}] in order, lacking: [{m, tasks}], apart: ["better-worse", ...]} for tasks (numbers) and a
  // scale: "raw", "clipped" (the second leaderboard's way) or "unclipped". Tests are unclipped on both normalised scales.
  PUNA.rank = (board, tasks, scale) => {
    const normalised = scale !== "raw";
    const field = { raw: "v", clipped: "clip", unclipped: "norm" }[scale];
    const rows = [];
    const lacking = [];
    board.models.forEach((_, m) => {
      const missing = tasks.filter((t) => {
        const score = board.scores[m][t];
        return !score || score.failed !== undefined || score[field] === null || score[field] === undefined;
      });
      if (missing.length || !tasks.length) {
        lacking.push({ m, tasks: missing });
        return;
      }
      let sum = 0;
      let variance = 0;
      for (const t of tasks) {
        const score = board.scores[m][t];
        const one = normalised ? score.norm_var : score.var;
        sum += score[field];
        variance = variance === null || one === null || one === undefined ? null : variance + one;
      }
      const mean = sum / tasks.length;
      const half = variance === null ? null : (board.z * Math.sqrt(variance)) / tasks.length;
      rows.push({ m, mean, lo: half === null ? null : mean - half, hi: half === null ? null : mean + half });
    });
    const found = [];
    for (let a = 0; a < rows.length; a += 1) {
      for (let b = a + 1; b < rows.length; b += 1) {
        found.push([a, b, difference(board, tasks, rows[a].m, rows[b].m, normalised)]);
      }
    }
    const adjusted = PUNA.holm(found.map(([, , told]) => told.p));
    const better = rows.map(() => 0); // how many are significantly better than it
    const worse = rows.map(() => 0);
    const apart = new Set();
    found.forEach(([a, b, { d }], at) => {
      if (adjusted[at] > board.level || d === 0) return;
      const [up, down] = d > 0 ? [a, b] : [b, a];
      better[down] += 1;
      worse[up] += 1;
      apart.add(`${rows[up].m}-${rows[down].m}`);
    });
    rows.forEach((row, at) => {
      row.low = 1 + better[at];
      row.high = rows.length - worse[at];
    });
    const rounded = (row) => Number(row.mean.toFixed(12));
    rows.sort((left, right) => rounded(right) - rounded(left) || left.m - right.m);
    return { rows, lacking, apart };
  };

  PUNA.ranks = ({ low, high }) => (low === high ? `${low}` : `${low} to ${high}`);
})();
