// Server-sent events from a response's body (https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6): the data
// of each event, in order. Pieces of the network may end anywhere, within a letter or between CR and LF.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an event without its empty line is not whole, and is dropped, as the standard says
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined); // already ended, or broken: there is nothing left to cancel
  }
}
