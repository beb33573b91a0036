import { make } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { say } from "./words.js";
export const openAbout = () => openDialog(say("about"), [make("p", {}, "TODO")], { sheet: true });
