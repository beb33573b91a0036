// The reader's own choices of looks and keys, kept in localStorage; in memory where the browser keeps nothing.
const NAME = "puna-looks";

const read = () => {
  try {
    const kept = JSON.parse(window.localStorage.getItem(NAME) || "{}");
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {}; // no storage, or a damaged entry: the choices begin anew
  }
};

class Looks {
  #kept = read();

  get(name) {
    return this.#kept[name];
  }

  keep(name, value) {
    this.#kept = { ...this.#kept, [name]: value };
    try {
      window.localStorage.setItem(NAME, JSON.stringify(this.#kept));
    } catch {
      // Private mode or a full disk: the choice holds for this tab. The list of conversations says that nothing is kept.
    }
  }
}
export const looks = new Looks();

const NEXT = { system: "light", light: "dark", dark: "system" };
export const colours = () => document.documentElement.dataset.theme || "system";
export const nextColours = () => {
  const next = NEXT[colours()];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  looks.keep("colours", next);
};
