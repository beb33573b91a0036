// How replies are drawn: the fields of the settings, their bounds (the server's own), and what of them goes into a request.
// A field that is empty is not sent: the server's own value holds (temperature 1, all tokens). A new conversation begins as
// `puna chat` does.
export const FIELDS = [
  { name: "temperature", least: 0, most: 2, step: 0.05 },
  { name: "top_p", least: 0.01, most: 1, step: 0.01 },
  { name: "top_k", least: 0, most: 1000000, step: 1 },
  { name: "min_p", least: 0, most: 1, step: 0.01 },
  { name: "max_tokens", least: 1, most: 1048576, step: 1 },
  { name: "seed", least: 0, most: 9007199254740991, step: 1 },
  { name: "repetition_penalty", least: 0.01, most: 100, step: 0.01 },
  { name: "presence_penalty", least: -2, most: 2, step: 0.05 },
  { name: "frequency_penalty", least: -2, most: 2, step: 0.05 },
];
export const MOST_STOPS = 16;
export const BEGIN = { system: "", stop: [], temperature: 0.7, top_p: 0.95 };

// A field's text as a number; null where it is empty, undefined where it is no number within the bounds.
export const readNumber = ({ least, most, step }, text) => {
  if (text.trim() === "") return null;
  const value = Number(text);
  if (!Number.isFinite(value) || value < least || value > most || (step === 1 && !Number.isInteger(value))) return undefined;
  return value;
};

// One stop text a line; "\n" and "\t" are written out, since a line cannot hold a line end.
export const readStops = (text) =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
export const writeStops = (stops) => stops.map((stop) => stop.replace(/\n/g, "\\n").replace(/\t/g, "\\t")).join("\n");

export const sampled = (settings) => {
  const body = {};
  for (const { name } of FIELDS) if (typeof settings[name] === "number") body[name] = settings[name];
  if (settings.stop?.length) body.stop = settings.stop;
  return body;
};

export const changed = (settings) => Boolean(settings.system) || JSON.stringify(sampled(settings)) !== JSON.stringify(sampled(BEGIN));
