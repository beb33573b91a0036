// A conversation as data: a tree of turns, so that an edited message or a second try is a branch and nothing is lost. Pure functions.
//
// A turn is { id, parent, role: "user", text } or { id, parent, role: "assistant", replies: [reply, ...] }: one reply, or two side by
// side. `parent` is null at the root; `chosen` names for each parent (ROOT for null) the child that is shown.
export const FORM = "puna-conversation/1";
const ROOT = "root";

const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export const newConversation = (models, settings) => ({
  form: FORM, id: newId(), title: "", created: Date.now(), updated: Date.now(), models: [...models], settings: { ...settings }, turns: {}, chosen: {},
});

const add = (conversation, turn) => {
  conversation.turns[turn.id] = turn;
  conversation.chosen[turn.parent ?? ROOT] = turn.id;
  return turn;
};

export const addUser = (conversation, parent, text) => {
  if (!conversation.title) conversation.title = titleOf(text);
  return add(conversation, { id: newId(), parent, role: "user", text });
};

// A reply before its first token. `finish` is null while it runs; then "stop", "length", "stopped" (by the reader), "cut", "error", ...
export const newReply = (model, mode) => ({ model, mode, text: "", finish: null, error: null, usage: null, first: null, last: null, dropped: 0 });

export const addAssistant = (conversation, parent, replies) => add(conversation, { id: newId(), parent, role: "assistant", replies });

const titleOf = (text) => {
  const letters = [...text.trim().split("\n", 1)[0].replace(/\s+/g, " ")];
  return letters.length > 60 ? `${letters.slice(0, 59).join("")}…` : letters.join("");
};

export const childrenOf = (conversation, parent) => Object.values(conversation.turns).filter((turn) => turn.parent === parent);

// The turns that are shown, from the first to the last.
export const pathOf = (conversation) => {
  const path = [];
  for (let parent = null; ; parent = path.at(-1).id) {
    const next = conversation.turns[conversation.chosen[parent ?? ROOT]];
    if (!next || path.includes(next)) return path;
    path.push(next);
  }
};

// Where a turn stands among its versions: { at: 1, n: 2, before: id or null, after: id or null }.
export const versionsOf = (conversation, turn) => {
  const all = childrenOf(conversation, turn.parent);
  const at = all.indexOf(turn);
  return { at: at + 1, n: all.length, before: all[at - 1]?.id ?? null, after: all[at + 1]?.id ?? null };
};

export const choose = (conversation, id) => {
  conversation.chosen[conversation.turns[id].parent ?? ROOT] = id;
};

// A reply that never came (an error before the first token) is taken away before the next try: it is no version of anything.
export const removeTurn = (conversation, turn) => {
  delete conversation.turns[turn.id];
  const rest = childrenOf(conversation, turn.parent);
  if (rest.length) choose(conversation, rest.at(-1).id);
  else delete conversation.chosen[turn.parent ?? ROOT];
};

const replyAt = (turn, side) => turn.replies[Math.min(side, turn.replies.length - 1)];
const upTo = (conversation, last) => {
  const line = [];
  for (let turn = last; turn; turn = conversation.turns[turn.parent]) line.unshift(turn);
  return line;
};

// What is sent for a reply below `last`: the messages of its own side. `side` is 0, or 1 for the second of two models. Replies
// without text are left out.
export const messagesFor = (conversation, last, side) =>
  upTo(conversation, last).flatMap((turn) => {
    if (turn.role === "user") return [{ role: "user", content: turn.text }];
    const { text } = replyAt(turn, side);
    return text ? [{ role: "assistant", content: text }] : [];
  });

// The text that a model without a chat format goes on from.
export const textFor = (conversation, last, side) =>
  upTo(conversation, last)
    .map((turn) => (turn.role === "user" ? turn.text : replyAt(turn, side).text))
    .join("");

// What was kept while a reply still ran was cut by whatever ended the page.
export const mend = (conversation) => {
  for (const turn of Object.values(conversation.turns)) {
    for (const reply of turn.replies ?? []) if (reply.finish === null) reply.finish = "cut";
  }
  return conversation;
};
