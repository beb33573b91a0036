// What a screen reader is told once it has happened: a finished reply, a copy, an error. Never a reply while it grows.
import { byId } from "./dom.js";

export const announce = (text) => {
  const place = byId("said");
  place.textContent = place.textContent === text ? `${text}\u00a0` : text; // the same words again are said again
};
