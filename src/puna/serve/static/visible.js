// A stranger's text as text: what would hide, or turn the line's direction, is written out, as puna.visible does on the server.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

const written = (one) => {
  const code = one.codePointAt(0);
  return code < 0x20 ? String.fromCodePoint(0x2400 + code) : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
};

export const visible = (text) => text.replace(/\r\n?/g, "\n").replace(HIDDEN, written);
