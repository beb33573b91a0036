// Conversations as a JSON file of the reader's own.
import { FORM } from "./conversation.js";
import { make } from "./dom.js";

const save = (name, value) => {
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000); // the download has begun by then
};

// A title as a file's name: letters, digits and hyphens of any script.
const plain = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);

export const exportOne = (conversation) => save(`${plain(conversation.title) || "conversation"}.json`, conversation);
export const exportAll = (conversations) => save("conversations.json", { form: `${FORM}s`, conversations });
