// Conversations kept in this browser: IndexedDB, one record each, and a small one for the list. Where the browser keeps nothing (some
// private windows), they live in memory until the tab closes, and `kept` says so.
const NAME = "puna-chat";

const asked = (request) =>
  new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });

const finished = (transaction) =>
  new Promise((done, failed) => {
    transaction.oncomplete = () => done();
    transaction.onerror = transaction.onabort = () => failed(transaction.error ?? new Error("aborted"));
  });

const headOf = ({ id, title, created, updated }) => ({ id, title, created, updated });

class Kept {
  kept = true;
  constructor(database) {
    this.database = database;
    database.onversionchange = () => database.close();
  }

  #write(work) {
    const transaction = this.database.transaction(["conversations", "heads"], "readwrite");
    work(transaction.objectStore("conversations"), transaction.objectStore("heads"));
    return finished(transaction);
  }

  heads() {
    return asked(this.database.transaction("heads").objectStore("heads").getAll());
  }

  load(id) {
    return asked(this.database.transaction("conversations").objectStore("conversations").get(id));
  }

  all() {
    return asked(this.database.transaction("conversations").objectStore("conversations").getAll());
  }

  save(conversation) {
    return this.#write((whole, heads) => {
      whole.put(conversation);
      heads.put(headOf(conversation));
    });
  }

  remove(id) {
    return this.#write((whole, heads) => {
      whole.delete(id);
      heads.delete(id);
    });
  }

  clear() {
    return this.#write((whole, heads) => {
      whole.clear();
      heads.clear();
    });
  }
}

class Unkept {
  kept = false;
  #all = new Map();

  async heads() {
    return [...this.#all.values()].map(headOf);
  }

  async load(id) {
    return this.#all.get(id);
  }

  async all() {
    return [...this.#all.values()];
  }

  async save(conversation) {
    this.#all.set(conversation.id, structuredClone(conversation));
  }

  async remove(id) {
    this.#all.delete(id);
  }

  async clear() {
    this.#all.clear();
  }
}

export const openStore = async () => {
  try {
    const request = window.indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("heads", { keyPath: "id" });
    };
    return new Kept(await asked(request));
  } catch {
    return new Unkept(); // `kept` is false: the page tells its reader
  }
};

// What other tabs of this page are told: { kind: "saved" | "removed" | "cleared", id }.
export const otherTabs = (heard) => {
  const channel = new BroadcastChannel(NAME);
  channel.onmessage = ({ data }) => heard(data);
  return (kind, id = null, busy = false) => channel.postMessage({ kind, id, busy });
};
