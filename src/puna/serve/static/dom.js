// Elements from names, properties and children. Every text becomes a text node: there is no way from a text to markup in here.

const SVG = "http://www.w3.org/2000/svg";

const fill = (made, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) made.append(child); // one by one: a call takes only so many
  return made;
};

// make("button", { type: "button", click: stop }, "Stop"): functions are listeners; attributes that are null or false are left out.
export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// The icons: strokes on a field of 20 by 20.
const ICONS = {
  plus: "M10 4v12M4 10h12",
  menu: "M3 6h14M3 10h14M3 14h14",
  more: "M4.5 9.5v1h1v-1zM9.5 9.5v1h1v-1zM14.5 9.5v1h1v-1z",
  close: "M5 5l10 10M15 5L5 15",
  send: "M10 16V4.5M5 9.5l5-5 5 5",
  stop: "M6 6h8v8H6z",
  retry: "M15.5 8.5A6 6 0 1 0 16 11M16 4v4.5h-4.5",
  edit: "M4 16l.8-3.6L13 4.2a1.4 1.4 0 0 1 2 0l.8.8a1.4 1.4 0 0 1 0 2L7.6 15.2z",
  copy: "M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3",
  done: "M4.5 10.5l3.8 3.8 7.2-8",
  before: "M12 5l-5 5 5 5",
  after: "M8 5l5 5-5 5",
  down: "M10 4v11.5M5 10.5l5 5 5-5",
  info: "M10 9v5M10 6.2v.01M10 17.5a7.5 7.5 0 1 0 0-15 7.5 7.5 0 0 0 0 15z",
  sliders: "M3 6.5h7M14 6.5h3M12 4.5v4M3 13.5h3M10 13.5h7M8 11.5v4",
  compare: "M3 4.5h6v11H3zM11 4.5h6v11h-6z",
  help: "M7.6 7.7a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.2.9-1.2 1.8M10 14.3v.01M10 17.5a7.5 7.5 0 1 0 0-15 7.5 7.5 0 0 0 0 15z",
  theme: "M16.6 12.2A7 7 0 1 1 7.8 3.4a5.6 5.6 0 0 0 8.8 8.8z",
  trash: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  save: "M10 3.5v9M6 9l4 4 4-4M4 16.5h12",
  gear: "M10 12.6a2.6 2.6 0 1 0 0-5.2 2.6 2.6 0 0 0 0 5.2zM10 2.8v2M10 15.2v2M2.8 10h2M15.2 10h2M4.9 4.9l1.4 1.4M13.7 13.7l1.4 1.4M4.9 15.1l1.4-1.4M13.7 6.3l1.4-1.4",
};
export const icon = (name) =>
  draw("svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true", focusable: "false" }, draw("path", { d: ICONS[name] }));

// A button of an icon; its name is there for the screen reader and as a tip.
export const iconButton = (name, label, click, more = {}) =>
  make("button", { type: "button", class: "quiet", "aria-label": label, title: label, click, ...more }, icon(name));
