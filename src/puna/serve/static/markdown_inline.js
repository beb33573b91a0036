// What stands inside a line of Markdown: code, emphasis, links. In: a text of a stranger. Out: nodes, made from text nodes only.
//
// Every pass is linear in the text, and nesting is bounded, so that no reply can freeze the page. Emphasis closes also before Chinese
// punctuation and letters (`**重点：**后文`), where CommonMark's rule (section 6.2, flanking runs) would leave the stars standing.
import { make } from "./dom.js";
import { say } from "./words.js";
import { visible } from "./visible.js";

const DEEPEST = 12;
const ESCAPED = /[!-/:-@[-`{-~]/;
const ADDRESS = /https?:\/\/[!#-&(-;=?-_a-z{-~]+/iy; // printable ASCII without quotes, < > and `
const TARGET = /\(\s*(?:<([^<>\n]{0,2000})>|([^\s()<>]{0,2000}(?:\([^\s()]{0,2000}\)[^\s()]{0,2000}){0,8}))(?:\s+(?:"[^"]{0,500}"|'[^']{0,500}'))?\s*\)/y;
const LETTER = /[\p{L}\p{N}]/u;
const SPACE = /\s/;

// The address as a URL where a link may lead there: http or https, with no name or password in it.
export const safe = (address) => {
  if (!/^https?:\/\//i.test(address) || !URL.canParse(address)) return null;
  const url = new URL(address);
  return (url.protocol === "http:" || url.protocol === "https:") && !url.username && !url.password ? url : null;
};

// The host stands beside the words of a link that do not name it: a reply cannot send its reader elsewhere than it says.
const link = (url, children, words) => {
  const named = words.includes(url.host);
  const made = make("a", { href: url.href, rel: "noreferrer noopener", target: "_blank", title: say("opens", { host: url.host }) }, children);
  return named ? [made] : [made, make("span", { class: "host" }, ` (${url.host})`)];
};

// Where code begins and ends: a run of ticks up to the next run of the same length. Map of start -> [length of the run, start of the end].
const codes = (text) => {
  const runs = [...text.matchAll(/`+/g)].map((match) => [match.index, match[0].length]);
  const next = new Map();
  const ends = new Array(runs.length).fill(-1);
  for (let at = runs.length - 1; at >= 0; at -= 1) {
    ends[at] = next.get(runs[at][1]) ?? -1;
    next.set(runs[at][1], at);
  }
  const found = new Map();
  for (let at = 0; at < runs.length; at += 1) {
    const [start, length] = runs[at];
    let before = 0;
    while (start - before > 0 && text[start - before - 1] === "\\") before += 1;
    if (before % 2 || ends[at] < 0) continue;
    found.set(start, [length, runs[ends[at]][0]]);
    at = ends[at];
  }
  return found;
};

// For each "[" the "]" that closes it; what stands in code or behind a backslash does not count.
const brackets = (text, code) => {
  const open = [];
  const found = new Map();
  for (let at = 0; at < text.length; at += 1) {
    if (code.has(at)) {
      const [length, end] = code.get(at);
      at = end + length - 1;
    } else if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length) found.set(open.pop(), at);
  }
  return found;
};

// Collects pieces and turns pairs of marks into elements. A frame is an opened mark that waits for its end.
class Emphasis {
  constructor() {
    this.frames = [{ mark: "", n: 0, children: [] }];
  }

  add(piece) {
    const { children } = this.frames.at(-1);
    if (typeof piece === "string" && typeof children.at(-1) === "string") children[children.length - 1] += piece;
    else children.push(piece);
  }

  // An opened mark that never closed is text.
  drop() {
    const { mark, n, children } = this.frames.pop();
    this.add(mark.repeat(n));
    for (const child of children) this.add(child);
  }

  mark(mark, n, opens, closes) {
    let left = n;
    const fits = (frame) => frame.mark === mark && (mark !== "~" || frame.n === n);
    while (closes && left && this.frames.some(fits)) {
      while (!fits(this.frames.at(-1))) this.drop();
      const frame = this.frames.at(-1);
      const used = mark === "~" ? n : Math.min(2, frame.n, left);
      const made = make(mark === "~" ? "del" : used === 2 ? "strong" : "em", {}, frame.children);
      frame.n -= used;
      left -= used;
      frame.children = [made];
      if (frame.n === 0) {
        this.frames.pop();
        this.add(made);
      }
    }
    if (!left) return;
    if (opens && this.frames.length < DEEPEST) this.frames.push({ mark, n: left, children: [] });
    else this.add(mark.repeat(left));
  }

  end() {
    while (this.frames.length > 1) this.drop();
    return this.frames[0].children;
  }
}

const marked = (text, at, emphasis) => {
  const mark = text[at];
  let n = 1;
  while (text[at + n] === mark) n += 1;
  const [before, after] = [text[at - 1] ?? " ", text[at + n] ?? " "];
  let [opens, closes] = [!SPACE.test(after), !SPACE.test(before)];
  if (mark === "_") [opens, closes] = [opens && !LETTER.test(before), closes && !LETTER.test(after)]; // snake_case is a word
  if (n > 3 || (mark === "~" && n > 2)) [opens, closes] = [false, false];
  emphasis.mark(mark, n, opens, closes);
  return n;
};

const bare = (text, at) => {
  if (LETTER.test(text[at - 1] ?? " ")) return null;
  ADDRESS.lastIndex = at;
  let found = ADDRESS.exec(text)?.[0];
  if (!found) return null;
  let [open, close] = [0, 0];
  for (const one of found) {
    if (one === "(") open += 1;
    if (one === ")") close += 1;
  }
  while (/[.,:;!?*_~\])]/.test(found.at(-1)) && !(found.at(-1) === ")" && close <= open)) {
    if (found.at(-1) === ")") close -= 1;
    found = found.slice(0, -1);
  }
  const url = safe(found);
  return url ? { length: found.length, nodes: link(url, [found], found) } : null;
};

// The nodes (and texts) of a line or a paragraph. `links`: false inside a link's own words.
export const inline = (text, links = true) => {
  const source = visible(text);
  const code = codes(source);
  const pairs = brackets(source, code);
  const emphasis = new Emphasis();
  let plain = "";
  const flush = () => {
    if (plain) emphasis.add(plain);
    plain = "";
  };
  const put = (nodes) => {
    flush();
    for (const node of nodes) emphasis.add(node);
  };
  for (let at = 0; at < source.length; ) {
    const one = source[at];
    if (code.has(at)) {
      const [length, end] = code.get(at);
      const inside = source.slice(at + length, end);
      const padded = /^ .*[^ ].* $|^ [^ ] $/s.test(inside); // one space on each side is there to set ticks off
      put([make("code", {}, padded ? inside.slice(1, -1) : inside)]);
      at = end + length;
    } else if (one === "\\" && ESCAPED.test(source[at + 1] ?? " ")) {
      plain += source[at + 1];
      at += 2;
    } else if (links && one === "[" && pairs.has(at) && source[pairs.get(at) + 1] === "(") {
      const end = pairs.get(at);
      TARGET.lastIndex = end + 1;
      const target = TARGET.exec(source);
      const url = target && safe(target[1] ?? target[2]);
      if (url) {
        if (plain.endsWith("!")) plain = plain.slice(0, -1); // a picture: nothing is fetched, its words lead to it
        const words = source.slice(at + 1, end);
        put(link(url, words.trim() ? inline(words, false) : [url.host], words.trim() ? words : url.host));
        at = TARGET.lastIndex;
      } else {
        plain += one;
        at += 1;
      }
    } else if (links && (one === "h" || one === "H")) {
      const found = bare(source, at);
      if (found) put(found.nodes);
      else plain += one;
      at += found ? found.length : 1;
    } else if (one === "*" || one === "_" || one === "~") {
      flush();
      at += marked(source, at, emphasis);
    } else {
      plain += one;
      at += 1;
    }
  }
  flush();
  return emphasis.end();
};
