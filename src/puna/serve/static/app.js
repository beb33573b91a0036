// The page put together: what is open, what runs, and what every button does. The views (thread, sidebar, composer, dialogs) know
// nothing of each other; what they share passes through here.
import * as server from "./server.js";
import { addAssistant, addUser, choose, mend, newConversation, newReply, pathOf, removeTurn } from "./conversation.js";
import { addModels, contextOf, emptyStart, fillPicker, modeOf } from "./models.js";
import { announce } from "./announce.js";
import { askKey, confirmed, openData, openHelp } from "./dialogs.js";
import { byId } from "./dom.js";
import { BEGIN, changed } from "./sampling.js";
import { Composer } from "./composer.js";
import { exportAll, exportOne } from "./exporting.js";
import { failureText } from "./failures.js";
import { listen } from "./keys.js";
import { looks, nextColours } from "./looks.js";
import { notices } from "./notices.js";
import { openAbout } from "./about_panel.js";
import { openSettings } from "./settings_dialog.js";
import { openStore, otherTabs } from "./store.js";
import { run } from "./replying.js";
import { dress, label } from "./dress.js";
import { language, say, setLanguage } from "./words.js";
import { Sidebar, titleText } from "./sidebar.js";
import { Thread } from "./thread.js";

const OPEN = "puna-open"; // sessionStorage: the conversation of this tab
const SAVE_EVERY = 1000; // ms, while a reply runs
const LONGEST_SAID = 1500; // letters of a reply that a screen reader is given at once

const state = { models: [], heads: [], conversation: newConversation([], BEGIN), running: new Map(), elsewhere: new Set() }; // elsewhere: being answered in another tab
let store;
let tell;

// ---- What is shown ----

const isRunning = (id = state.conversation.id) => state.running.has(id) || state.elsewhere.has(id);
const modes = () => state.conversation.models.map((name) => modeOf(state.models, name));

const showThread = (focus) => thread.show(state.conversation, emptyStart(state.models, state.conversation.models), focus);
const showList = () => sidebar.show(state.heads, state.conversation.id, state.running);
const showBar = () => {
  const [first, second] = state.conversation.models;
  fillPicker(byId("model"), state.models, first);
  fillPicker(byId("second"), state.models, second);
  byId("second").hidden = second === undefined;
  byId("compare").setAttribute("aria-pressed", String(second !== undefined));
  for (const id of ["compare", "about", "settings"]) byId(id).disabled = state.models.length === 0;
  byId("settings").classList.toggle("changed", changed(state.conversation.settings));
};
const showComposer = () => {
  const text = modes().length > 0 && modes().every((mode) => mode === "text");
  composer.show(state.conversation.id, { mode: text ? "text" : "chat", running: isRunning(), more: text && pathOf(state.conversation).length > 0 });
  const alone = state.conversation.models.find((_, at) => modes()[at] === "text");
  byId("mode").textContent = text ? say("text_mode") : alone === undefined ? "" : say("text_mode_side", { model: alone });
};
const show = (focus = null) => {
  showBar();
  showThread(focus);
  showComposer();
  showList();
};

// ---- Keeping ----

const save = async (conversation) => {
  conversation.updated = Date.now();
  try {
    await store.save(conversation);
  } catch (error) {
    notices.show("save", say("error_save", { message: error.message }));
    return;
  }
  notices.clear("save");
  state.heads = await store.heads();
  showList();
  tell("saved", conversation.id, state.running.has(conversation.id));
};

const heard = async ({ kind, id, busy }) => {
  if (kind === "stop") return stop(id);
  if (kind === "saved") state.elsewhere[busy ? "add" : "delete"](id);
  if (kind === "removed") drop(id);
  if (kind === "cleared") dropAll();
  state.heads = await store.heads();
  const gone = kind === "cleared" || (kind === "removed" && id === state.conversation.id);
  if (gone) start();
  else if (kind === "saved" && id === state.conversation.id && !state.running.has(id)) await open(id);
  else showList();
};

// ---- Conversations ----

const present = (names) => {
  const here = state.models.map((one) => one.id);
  const kept = names.filter((name) => here.includes(name));
  return kept.length ? kept : here.slice(0, 1);
};

const shownNow = (conversation) => {
  state.conversation = conversation;
  window.sessionStorage.setItem(OPEN, conversation.id);
  show();
  thread.toEnd();
};

const start = () => {
  const settings = { ...state.conversation.settings, system: "" }; // how replies are drawn goes on; the instructions were for that conversation
  shownNow(newConversation(present(looks.get("models") ?? []), settings));
};

const open = async (id) => {
  const running = state.running.get(id);
  const conversation = running?.conversation ?? (await store.load(id));
  if (!conversation) return start();
  conversation.models = present(conversation.models);
  return shownNow(isRunning(id) ? conversation : mend(conversation));
};

const remove = async (id) => {
  const head = state.heads.find((one) => one.id === id);
  if (!(await confirmed(say("delete_ask", { title: titleText(head) }), say("delete")))) return;
  drop(id);
  await store.remove(id);
  tell("removed", id);
  await heard({ kind: "removed", id });
};

const clear = async () => {
  if (!(await confirmed(say("clear_ask", { n: state.heads.length }), say("clear_all")))) return;
  dropAll();
  await store.clear();
  tell("cleared");
  await heard({ kind: "cleared" });
};

const rename = async (id, title) => {
  const conversation = id === state.conversation.id ? state.conversation : (state.running.get(id)?.conversation ?? (await store.load(id)));
  conversation.title = title;
  await save(conversation);
};

// ---- Replies ----

// A reply whose conversation is deleted ends, and must not bring it back.
const drop = (id) => {
  const running = state.running.get(id);
  if (!running) return;
  running.gone = true;
  running.abort.abort();
};
const dropAll = () => [...state.running.keys()].forEach(drop);

const stop = (id = state.conversation.id) => {
  if (state.running.has(id)) state.running.get(id).abort.abort();
  else if (state.elsewhere.has(id)) tell("stop", id);
};

const ended = (reply) => {
  const { model, finish, text } = reply;
  if (finish === "stopped") announce(say("reply_stopped"));
  else if (finish === "error") announce(say("reply_failed", { model, text: failureText(reply.error, model) }));
  else announce(say("reply_of", { model, text: text.slice(0, LONGEST_SAID) }));
};

const reply = async (parent) => {
  const conversation = state.conversation;
  const abort = new AbortController();
  const names = conversation.models;
  const turn = addAssistant(conversation, parent.id, names.map((name, at) => newReply(name, modes()[at])));
  const running = { conversation, abort, gone: false };
  const keep = async () => running.gone || save(conversation);
  state.running.set(conversation.id, running);
  window.sessionStorage.setItem(OPEN, conversation.id);
  show();
  thread.toEnd();
  await keep();
  let saved = performance.now();
  const one = async (made, side) => {
    const changedNow = () => {
      if (state.conversation === conversation) thread.update(made);
      if (made.finish !== null || performance.now() - saved < SAVE_EVERY) return;
      saved = performance.now();
      void keep();
    };
    await run({ conversation, last: parent, side, reply: made, context: contextOf(state.models, made.model), signal: abort.signal, changed: changedNow });
    ended(made);
  };
  await Promise.all(turn.replies.map(one));
  state.running.delete(conversation.id);
  if (state.conversation === conversation) showComposer();
  await keep();
};

// Sends what was written; false where it cannot be sent now.
const send = (text) => {
  if (isRunning() || state.conversation.models.length === 0) return false;
  const last = pathOf(state.conversation).at(-1);
  void reply(text.trim() ? addUser(state.conversation, last?.id ?? null, text) : last);
  return true;
};

const retry = (turn) => {
  if (isRunning()) return;
  const parent = state.conversation.turns[turn.parent];
  if (turn.replies.every((one) => one.text === "")) removeTurn(state.conversation, turn);
  void reply(parent);
};

const edit = (turn, text) => {
  if (isRunning()) return;
  void reply(addUser(state.conversation, turn.parent, text));
  composer.focus();
};

const version = (id, action) => {
  if (isRunning()) return;
  choose(state.conversation, id);
  show({ turn: id, action });
  void save(state.conversation);
};

const editLast = () => {
  const last = pathOf(state.conversation).findLast((turn) => turn.role === "user");
  if (last && !isRunning()) thread.startEdit(last);
};

// ---- The bar ----

const pick = (at, name) => {
  state.conversation.models[at] = name;
  looks.keep("models", state.conversation.models);
  show();
};

const compare = () => {
  const [first, second] = state.conversation.models;
  if (first === undefined || isRunning()) return;
  const other = state.models.find((one) => one.id !== first)?.id ?? first;
  state.conversation.models = second === undefined ? [first, other] : [first];
  looks.keep("models", state.conversation.models);
  show();
};

const settings = () =>
  openSettings(state.conversation.settings, (next) => {
    state.conversation.settings = next;
    showBar();
    if (pathOf(state.conversation).length) void save(state.conversation);
  });

const about = () => openAbout(state.conversation.models);
const data = () =>
  openData(state.heads.length, server.key, { save: async () => exportAll(await store.all()), clear });

const speakOther = () => {
  setLanguage(language() === "zh" ? "en" : "zh");
  dress();
  show();
};

const readModels = async () => {
  try {
    state.models = addModels(await server.models());
    notices.clear("models");
    if (state.models.length === 0) notices.show("models", say("no_models"), readModels);
  } catch (error) {
    state.models = [];
    notices.show("models", `${say("error_models")} ${failureText(error)}`, readModels);
  }
  state.conversation.models = present(state.conversation.models.length ? state.conversation.models : (looks.get("models") ?? []));
  show();
};

// ---- Start ----

const thread = new Thread(byId("thread"), byId("scroll"), byId("newest"), { retry, edit, choose: version });
const sidebar = new Sidebar({
  open: async (id) => {
    if (sidebar.isOpen) sidebar.open(false, false);
    await open(id);
    byId("thread").focus({ preventScroll: true });
  },
  rename,
  remove,
  save: async (id) => exportOne(await store.load(id)),
});
const composer = new Composer({ send, stop, editLast });

const fresh = () => {
  if (sidebar.isOpen) sidebar.open(false, false);
  start();
  composer.focus();
};
const clicks = { new: fresh, language: speakOther, colours: () => (nextColours(), label()), help: openHelp, data, compare, settings, about };
for (const [id, work] of Object.entries(clicks)) byId(id).addEventListener("click", work);
byId("model").addEventListener("change", (event) => pick(0, event.target.value));
byId("second").addEventListener("change", (event) => pick(1, event.target.value));

listen({
  "/": () => composer.focus(),
  n: fresh,
  l: () => (byId("show-sidebar").checkVisibility() ? sidebar.open(true) : byId("list").focus()),
  i: about,
  s: settings,
  c: compare,
  "?": openHelp,
  Escape: () => (sidebar.isOpen ? sidebar.open(false) : stop()),
});

let asking = null;
server.onKeyNeeded((wrong) => {
  asking ??= askKey(wrong).then((given) => {
    asking = null;
    if (given) server.key.set(given);
    return given !== null;
  });
  return asking;
});

const begin = async () => {
  setLanguage(language());
  dress();
  store = await openStore();
  tell = otherTabs(heard);
  window.addEventListener("pagehide", () => {
    for (const { conversation, gone } of state.running.values()) {
      if (!gone) void store.save(conversation);
      tell("saved", conversation.id, false);
    }
  });
  if (!store.kept) notices.show("kept", say("error_kept"));
  state.heads = await store.heads();
  show();
  await readModels();
  const last = window.sessionStorage.getItem(OPEN);
  if (last && state.heads.some((head) => head.id === last)) await open(last);
  document.documentElement.dataset.ready = "true";
  if (window.matchMedia("(min-width: 50.01rem)").matches && !document.querySelector("dialog")) composer.focus();
};
void begin();
