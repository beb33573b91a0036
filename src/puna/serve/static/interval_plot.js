// A score as a drawing: a dot for the value, a bar for its 95 % interval, a dashed line for what guessing gives. The same numbers stand
// beside it as text, so the drawing itself is hidden from a screen reader.
import { draw } from "./dom.js";

const WIDTH = 320;
const EDGE = 8; // pixels free at each side, for the dot
const LINE = 14; // where the axis lies

// { value, low, high, chance, least, most, say }: numbers on one scale, null where there is none; `say` writes one of them.
export const intervalPlot = ({ value, low, high, chance, least, most, say, chanceWord }) => {
  const x = (number) => EDGE + ((Math.min(Math.max(number, least), most) - least) / (most - least)) * (WIDTH - 2 * EDGE);
  const line = (from, to, up, down, kind) => draw("line", { x1: x(from), x2: x(to), y1: LINE - up, y2: LINE + down, class: kind });
  const parts = [line(least, most, 0, 0, "axis")];
  if (low !== null && high !== null) parts.push(line(low, high, 0, 0, "bar"));
  if (chance !== null) parts.push(line(chance, chance, 9, 9, "chance"));
  parts.push(draw("circle", { cx: x(value), cy: LINE, r: 5, class: "dot" }));
  const left = chance !== null && x(chance) < 70;
  const right = chance !== null && x(chance) > WIDTH - 70;
  if (!left) parts.push(draw("text", { x: EDGE, y: 36 }, say(least)));
  if (!right) parts.push(draw("text", { x: WIDTH - EDGE, y: 36, class: "right" }, say(most)));
  if (chance !== null) {
    const at = Math.min(Math.max(x(chance), EDGE), WIDTH - EDGE);
    parts.push(draw("text", { x: left ? EDGE : right ? WIDTH - EDGE : at, y: 36, class: left ? "" : right ? "right" : "mid" }, chanceWord));
  }
  return draw("svg", { class: "plot", viewBox: `0 0 ${WIDTH} 40`, "aria-hidden": "true", focusable: "false" }, ...parts);
};
