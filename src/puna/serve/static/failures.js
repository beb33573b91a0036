// What went wrong, in plain words. In: { status, code, message, after, own }. Out: a sentence in the reader's language; the server's
// own words (they name the field and the numbers) are kept where they tell more.
import { say } from "./words.js";
import { visible } from "./visible.js";

export const failureText = (error, model = "") => {
  const { status, code, after } = error;
  const message = visible(String(error.message ?? ""));
  if (error.own) return say("error_own", { message });
  if (status === 0) return say("error_network");
  if (code === "form") return say("error_form");
  if (status === 401) return say("error_unauthorized");
  if (status === 404) return say("error_missing", { model: visible(model) });
  if (status === 503 || status === 429) return after ? say("error_busy_after", { s: after }) : say("error_busy");
  if (status >= 500 || code === "stream" || status === 200) return `${say("error_internal")} ${message}`.trim();
  return say("error_refused", { message });
};
