// Markdown as elements: headings, paragraphs, lists, quotes, tables, code. In: a reply, perhaps still growing. Out: nodes.
// What looks like HTML is text. Nesting is bounded; a text deeper than that is shown as it was written.
import { iconButton, make } from "./dom.js";
import { copy } from "./copy.js";
import { inline } from "./markdown_inline.js";
import { say } from "./words.js";
import { visible } from "./visible.js";

const DEEPEST = 6;
const WIDEST = 40; // columns of a table
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(?=\S)|[ \t]*$)/;
const blank = (line) => line.trim() === "";
const indent = (line) => line.length - line.trimStart().length;

// ---- One block: takes the lines that are its own and says how it is made ----

const fence = (lines, at) => {
  const [, ticks, label] = FENCE.exec(lines[at]);
  const ends = (line) => indent(line) < 4 && line.trim().length >= ticks.length && line.trim() === ticks[0].repeat(line.trim().length);
  let end = at + 1;
  while (end < lines.length && !ends(lines[end])) end += 1;
  const pad = indent(lines[at]);
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(pad, indent(line))));
  return { end: Math.min(end + 1, lines.length), build: () => codeBlock(body.join("\n"), label.trim().split(/\s/)[0]) };
};

const codeBlock = (text, label) => {
  const button = iconButton("copy", say("copy_code"), () => copy(text, button));
  return make(
    "figure",
    { class: "code" },
    make("figcaption", {}, make("span", {}, visible(label).slice(0, 40) || say("language_code")), button),
    make("pre", { tabindex: "0" }, make("code", {}, visible(text))), // it scrolls: the keyboard must reach it
  );
};

const indented = (lines, at) => {
  let end = at;
  while (end < lines.length && (blank(lines[end]) || indent(lines[end]) >= 4)) end += 1;
  while (blank(lines[end - 1])) end -= 1;
  return { end, build: () => codeBlock(lines.slice(at, end).map((line) => line.slice(4)).join("\n"), "") };
};

const heading = (lines, at) => {
  const [whole, marks] = HEADING.exec(lines[at]);
  let text = lines[at].slice(whole.length).trimEnd();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  if (end === 0 || text[end - 1] === " ") text = text.slice(0, end).trimEnd();
  // The page has its own h1 and h2; a reply's begin below them, and look as large as they were meant.
  const level = Math.min(6, marks.length + 2);
  return { end: at + 1, build: () => make(`h${level}`, { class: `level-${marks.length}` }, inline(text)) };
};

const quote = (lines, at, depth) => {
  let end = at;
  while (end < lines.length && (QUOTE.test(lines[end]) || (end > at && !blank(lines[end]) && !starts(lines, end, depth)))) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { end, build: () => make("blockquote", {}, built(inner, depth + 1)) };
};

const list = (lines, at, depth) => {
  const kind = (mark) => (/\d/.test(mark) ? mark.at(-1) : mark);
  const first = ITEM.exec(lines[at]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || kind(match[2]) !== kind(first[2]) || RULE.test(lines[end])) break;
    const spaces = match[3] && match[3].length < 5 ? match[3].length : 1;
    const width = match[1].length + match[2].length + spaces;
    const own = [lines[end].slice(width)];
    end += 1;
    for (; end < lines.length; end += 1) {
      const line = lines[end];
      const inside = indent(line) >= width;
      if (blank(line)) {
        let next = end;
        while (next < lines.length && blank(lines[next])) next += 1;
        if (next === lines.length || indent(lines[next]) < width) break;
        for (; end < next; end += 1) own.push("");
        end -= 1;
      } else if (inside) own.push(line.slice(width));
      else if (ITEM.test(line) || blank(own.at(-1)) || starts(lines, end, depth)) break;
      else own.push(line.trimStart()); // a paragraph that goes on without its indent
    }
    items.push(own);
    let next = end;
    while (next < lines.length && blank(lines[next])) next += 1;
    if (next < lines.length && ITEM.test(lines[next])) end = next; // items apart by empty lines are one list
  }
  const ordered = /\d/.test(first[2]);
  const start = ordered ? Number.parseInt(first[2], 10) : null;
  const build = () =>
    make(
      ordered ? "ol" : "ul",
      { start: start === 1 ? null : start },
      items.map((own) => make("li", {}, built(own, depth + 1))),
    );
  return { end, build };
};

const cells = (line) => {
  const found = [""];
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      found[found.length - 1] += "|";
      at += 1;
    } else if (text[at] === "|") found.push("");
    else found[found.length - 1] += text[at];
  }
  if (found.length > 1 && blank(found.at(-1))) found.pop();
  return found.map((cell) => cell.trim());
};

const isTable = (lines, at) => {
  const under = lines[at + 1];
  if (!lines[at].includes("|") || !under?.includes("-") || !/^[\s|:-]+$/.test(under)) return false;
  const [head, rule] = [cells(lines[at]), cells(under)];
  return head.length === rule.length && head.length <= WIDEST && rule.every((cell) => /^:?-+:?$/.test(cell));
};

const table = (lines, at) => {
  const head = cells(lines[at]);
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "centre" : "right") : null));
  let end = at + 2;
  const rows = [];
  for (; end < lines.length && !blank(lines[end]) && lines[end].includes("|"); end += 1) rows.push(cells(lines[end]));
  const row = (texts, tag) => make("tr", {}, head.map((_, n) => make(tag, { class: sides[n], scope: tag === "th" && "col" }, inline(texts[n] ?? ""))));
  const build = () =>
    make(
      "div",
      { class: "table", tabindex: "0", role: "group" },
      make("table", {}, make("thead", {}, row(head, "th")), make("tbody", {}, rows.map((texts) => row(texts, "td")))),
    );
  return { end, build };
};

const paragraph = (lines, at, depth) => {
  let end = at + 1;
  while (end < lines.length && !blank(lines[end]) && !starts(lines, end, depth)) end += 1;
  return { end, build: () => make("p", {}, inline(lines.slice(at, end).join("\n").trim())) };
};

// Whether a line ends the paragraph above it. A number that is not 1 does not: "in\n1984. That year" is one sentence.
const starts = (lines, at, depth) => {
  const line = lines[at];
  const item = ITEM.exec(line);
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || isTable(lines, at)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || Boolean(item?.[3] && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1)));
};

const pick = (lines, at, depth) => {
  const line = lines[at];
  if (FENCE.test(line)) return fence(lines, at);
  if (indent(line) >= 4) return indented(lines, at);
  if (HEADING.test(line)) return heading(lines, at);
  if (RULE.test(line)) return { end: at + 1, build: () => make("hr") };
  if (isTable(lines, at)) return table(lines, at);
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  return paragraph(lines, at, depth);
};

// The blocks of some lines: [{ source, build }].
const blocks = (lines, depth = 0) => {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    const block = pick(lines, at, depth);
    found.push({ source: lines.slice(at, block.end).join("\n"), build: block.build });
    at = block.end;
  }
  return found;
};

const built = (lines, depth) => blocks(lines, depth).map((block) => block.build());

// Shows a text in an element. Called again with a longer text it makes only the blocks that changed: what the reader has selected in
// the others stays selected. `shown` of the element holds what stands there.
const shown = new WeakMap();
export const render = (element, text) => {
  const next = blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"));
  const before = shown.get(element) ?? [];
  let same = 0;
  while (same < next.length && same < before.length && before[same] === next[same].source) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  for (const block of next.slice(same)) element.append(block.build());
  shown.set(element, next.map((block) => block.source));
};
