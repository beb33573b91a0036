// Every page: the switch of colours, tables that sort, buttons that copy a command. Makes window.PUNA, which the other scripts share.
// Whatever comes from data goes into the page by textContent: names and answers are strangers' text.
"use strict";
(() => {
  const PUNA = (window.PUNA = window.PUNA || {});

  // An element with properties and children; texts become text nodes. Attributes that are null or false are left out.
  PUNA.make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      made.setAttribute(name, value === true ? "" : String(value));
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  // What strangers' text hides, as puna.visible does it: controls as their pictures, direction marks and other unprintables as numbers.
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\p{Cf}\p{Cs}\p{Co}\p{Cn}\u2028\u2029]/gu;
  PUNA.clean = (text) =>
    String(text).replace(hidden, (char) => {
      const code = char.codePointAt(0);
      if (code < 0x20) return String.fromCodePoint(0x2400 + code);
      if (code === 0x7f) return "\u2421";
      if (code === 0x200c || code === 0x200d) return char; // the joiners that emoji and scripts need
      return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
    });

  PUNA.count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

  // Chinese text says that it is: fonts and line breaks follow.
  PUNA.lang = (text) => (/[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\u{20000}-\u{2ffff}]/u.test(text) ? "zh" : null);

  // Keeps a choice in the address after #, without a step in the browser's history for each tick.
  PUNA.keep = (choice) => {
    const hash = String(choice) ? `#${choice}` : "";
    if (hash === location.hash || (!hash && !location.hash)) return;
    try {
      history.replaceState(null, "", hash || location.pathname + location.search);
    } catch {
      location.hash = hash; // a browser that keeps pages of files apart
    }
  };

  // ---- Colours: the system's, unless the reader says otherwise ----
  const colours = () => {
    let place = document.getElementById("tools");
    if (!place) {
      place = PUNA.make("div", { id: "tools", class: "needs-js" });
      (document.querySelector("header") || document.body).append(place);
    }
    const choice = PUNA.make("select", { id: "colours", autocomplete: "off" });
    for (const [value, label] of [["", "as the system"], ["light", "light"], ["dark", "dark"]]) {
      choice.append(PUNA.make("option", { value }, label));
    }
    choice.value = document.documentElement.dataset.theme || "";
    choice.addEventListener("change", () => {
      const root = document.documentElement;
      if (choice.value) root.dataset.theme = choice.value;
      else delete root.dataset.theme;
      try {
        if (choice.value) window.localStorage.setItem("puna-colours", choice.value);
        else window.localStorage.removeItem("puna-colours");
      } catch {
        // Nothing can be kept here: the choice holds for this page.
      }
    });
    place.append(PUNA.make("label", { for: "colours" }, "Colours"), choice);
  };

  // ---- Tables that sort ----
  const TIMES = { k: 1e3, M: 1e6, B: 1e9, T: 1e12 };
  // The first number of a cell as people write it: "70.7 %", "34.0 B", "1,234", "\u22120.4", "< 0.0001", "1 to 3"; "" where there is none.
  const numberOf = (text) => {
    const found = /^[<\s]*([+\-\u2212]?)([\d,]+(?:\.\d+)?(?:e[+-]?\d+)?)[\s\u202f\u00a0]*([kMBT]?)/.exec(text);
    if (!found) return "";
    return (found[1] === "-" || found[1] === "\u2212" ? -1 : 1) * Number(found[2].replaceAll(",", "")) * (TIMES[found[3]] || 1);
  };
  const keyOf = (cell, numbers) => {
    if (!cell) return "";
    const text = (cell.dataset.sort !== undefined ? cell.dataset.sort : (cell.querySelector(".value") || cell).textContent).trim();
    return numbers ? numberOf(text) : text;
  };
  const inWords = new Intl.Collator(["en", "zh"], { numeric: true, sensitivity: "base" });
  const compare = (left, right, numbers, sign) => {
    if (left === "" || right === "") return (left === "") - (right === ""); // what is not known comes last, either way
    return sign * (numbers ? left - right : inWords.compare(left, right));
  };

  // Sorts each body of the table by one column. `direction`: "ascending" or "descending".
  PUNA.sort = (table, column, direction) => {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const sign = direction === "descending" ? -1 : 1;
    const rows = [...table.tBodies].map((body) => [...body.rows]);
    const numbers = heads[column].classList.contains("num");
    const keys = new Map(rows.flat().map((row) => [row, keyOf(row.cells[column], numbers)]));
    [...table.tBodies].forEach((body, at) => {
      rows[at].sort((left, right) => compare(keys.get(left), keys.get(right), numbers, sign)); // equal keys keep their order
      body.append(...rows[at]);
    });
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
  };

  PUNA.unsort = (table) => {
    for (const head of table.tHead.querySelectorAll("[aria-sort]")) head.removeAttribute("aria-sort");
  };

  const sortable = (table) => {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      if (head.classList.contains("no-sort") || !head.textContent.trim()) return;
      const button = PUNA.make("button", { type: "button", class: "sort" });
      const link = head.querySelector("a");
      if (link) {
        button.append(PUNA.make("span", { class: "hidden" }, `Sort by ${link.textContent.trim()}`)); // a link stays a link beside it
        link.after(button);
      } else {
        button.append(...head.childNodes);
        head.append(button);
      }
      button.addEventListener("click", () => {
        const first = head.dataset.first === "descending" ? "descending" : "ascending";
        const other = first === "descending" ? "ascending" : "descending";
        const direction = head.getAttribute("aria-sort") === first ? other : first;
        PUNA.sort(table, column, direction);
        table.dispatchEvent(new CustomEvent("sorted", { detail: { column, direction } }));
      });
    });
  };

  // ---- Commands to copy ----
  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };

  // True where the text reached the clipboard; where it did not, it is left selected.
  const copy = async (element) => {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch {
      select(element); // no such interface, or not allowed here (a page of a file): the older way
      let done = false;
      try {
        done = document.execCommand("copy");
      } catch {
        done = false;
      }
      if (done) window.getSelection().removeAllRanges();
      return done;
    }
  };

  const copies = () => {
    for (const box of document.querySelectorAll(".command")) {
      const code = box.querySelector("code");
      if (!code) continue;
      const said = PUNA.make("span", { role: "status", class: "copied" });
      let button = box.querySelector("button");
      if (!button) {
        button = PUNA.make("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
        box.append(button);
      }
      box.append(said);
      button.addEventListener("click", async () => {
        said.textContent = (await copy(code)) ? "Copied." : "Selected: press Ctrl+C to copy.";
        window.setTimeout(() => (said.textContent = ""), 6000);
      });
    }
  };

  colours();
  document.querySelectorAll("table.sortable").forEach(sortable);
  copies();
})();
