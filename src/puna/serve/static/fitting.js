// What of a conversation fits the model's context with room for a reply, counted by the server's own tokenizer: 256 tokens are kept free
// (or as many as the reader allows a reply), but never more than half of the context, as `puna chat` does. The last message is always sent;
// where it alone is too long, the server says so with both numbers.
import { tokenize } from "./server.js";

const RESERVE = 256;
const HEADER = 6; // tokens that open the reply, at most

const roomIn = (context, wanted) => context - Math.min(Math.max(wanted ?? RESERVE, 1), Math.floor(context / 2));

// The oldest messages go first; a reply goes with the question that it answers.
export const shorter = (messages) => {
  let next = messages.slice(1);
  while (next.length > 1 && next[0].role === "assistant") next = next.slice(1);
  return next;
};

// The tokens of one message with what the chat format puts around it. What has been said once is not counted twice.
const counted = new Map();
const count = async (model, message, signal) => {
  const key = JSON.stringify([model, message]);
  if (!counted.has(key)) counted.set(key, (await tokenize({ model, messages: [message], add_generation_prompt: false }, signal)).length);
  return counted.get(key);
};

// The newest of `messages` that fit. `context`: the model's, or null where the server does not say: then all.
export const fit = async ({ model, context, system, messages, wanted, signal }) => {
  if (context === null || messages.length < 2) return messages;
  const sizes = new Map();
  for (const message of messages) sizes.set(message, await count(model, message, signal));
  const fixed = HEADER + (system ? await count(model, { role: "system", content: system }, signal) : 0);
  const total = (kept) => kept.reduce((sum, message) => sum + sizes.get(message), fixed);
  let kept = messages;
  while (kept.length > 1 && total(kept) > roomIn(context, wanted)) kept = shorter(kept);
  return kept;
};

// The end of a text that fits, as ids, and how many tokens before it were left out; the text itself where it fits whole.
export const fitText = async ({ model, context, text, wanted, signal }) => {
  if (context === null) return { prompt: text, dropped: 0 };
  const ids = await tokenize({ model, prompt: text }, signal);
  const room = roomIn(context, wanted);
  return ids.length > room ? { prompt: ids.slice(-room), dropped: ids.length - room } : { prompt: text, dropped: 0 };
};
