// One reply, from the request to its last token. In: a conversation, the turn to reply to, the side. Out: the reply's own fields, filled
// in while it grows. Must never happen: text that came is lost, or messages are left out without a word.
import { chat, complete, ServerError } from "./server.js";
import { fit, fitText, shorter } from "./fitting.js";
import { messagesFor, textFor } from "./conversation.js";
import { sampled } from "./sampling.js";

const TOO_LONG = "context_length_exceeded";
const FIRST_LENGTH = 256; // tokens that a text goes on for where the reader sets nothing: the API's own 16 are a line

const take = (reply, piece, began) => {
  const now = (performance.now() - began) / 1000;
  if (piece.text !== undefined) {
    reply.text += piece.text;
    reply.first ??= now;
    reply.last = now;
  }
  if (piece.usage) {
    const { prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: details } = piece.usage;
    reply.usage = { prompt, completion, cached: details?.cached_tokens ?? 0 };
  }
};

// Takes a stream to its end; the usage comes after the finish reason, so `finish` is set last.
const follow = async (reply, stream, changed) => {
  const began = performance.now();
  let finish = "cut";
  for await (const piece of stream) {
    if (piece.finish !== undefined) finish = piece.finish;
    else take(reply, piece, began);
    changed();
  }
  reply.finish = finish;
};

const converse = async ({ conversation, last, side, reply, context, signal, changed }) => {
  const { settings } = conversation;
  const all = messagesFor(conversation, last, side);
  let messages = await fit({ model: reply.model, context, system: settings.system, messages: all, wanted: settings.max_tokens, signal });
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  for (;;) {
    reply.dropped = all.length - messages.length;
    try {
      await follow(reply, chat({ model: reply.model, ...sampled(settings), messages: [...system, ...messages] }, signal), changed);
      return;
    } catch (error) {
      if (error.code !== TOO_LONG || messages.length < 2) throw error;
      messages = shorter(messages); // the count was a few tokens off
    }
  }
};

const goOn = async ({ conversation, last, side, reply, context, signal, changed }) => {
  const { settings } = conversation;
  const text = textFor(conversation, last, side);
  const { prompt, dropped } = await fitText({ model: reply.model, context, text, wanted: settings.max_tokens, signal });
  reply.dropped = dropped;
  await follow(reply, complete({ model: reply.model, max_tokens: FIRST_LENGTH, ...sampled(settings), prompt }, signal), changed);
};

// Makes the reply: `changed()` is called after every piece. Ends with `reply.finish` set, whatever happens.
export const run = async (job) => {
  const { reply, changed } = job;
  try {
    await (reply.mode === "text" ? goOn(job) : converse(job));
  } catch (error) {
    if (error.name === "AbortError") {
      reply.finish = "stopped";
    } else {
      reply.finish = "error";
      const own = !(error instanceof ServerError);
      if (own) console.error(error); // a mistake of the page's: said to the reader, and told where it was
      reply.error = { status: error.status ?? null, code: error.code ?? null, message: error.message, after: error.after ?? null, own };
    }
  } finally {
    changed();
  }
};

// Tokens a second between the first piece and the last: the first token waited for the prompt, so it does not count.
export const speedOf = ({ usage, first, last }) => {
  const seconds = last - first;
  return usage && usage.completion > 1 && seconds > 0 ? (usage.completion - 1) / seconds : null;
};
