"""One response on its way out: its status is remembered, its headers are completed, and it can still be refused.

In: the routes' ASGI messages. Out: the same, with the headers that every response has. Must never happen: a response without them, a
refusal in the middle of a body that looks like a part of it.
"""

import json

from starlette.types import Message, Scope, Send

from puna.serve.errors import ApiError

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
"""Of every response, where the route sets no value of its own. There are no CORS headers: no other site's page may read anything."""


class Exchange:
    """`status` is 0 as long as nothing was sent."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.status = 0
        self._events = self._ended = False

    async def send(self, message: Message) -> None:
        """What the routes send through."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            given = {key.lower(): value for key, value in headers}
            headers += [(key, value) for key, value in HEADERS.items() if key not in given]
            message = {**message, "headers": headers}
            self.status = message["status"]
            self._events = given.get(b"content-type", b"").startswith(b"text/event-stream")
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with the error; within a stream of events, as its last event. A body cut in its middle stays cut: the connection ends."""
        if not self.status:
            # The request that the response would be for is this one; its body was read or is not wanted.
            response = error.response()
            await response(self._scope, _nothing, self.send)
        elif self._events and not self._ended:
            event = f"data: {json.dumps(error.body(), ensure_ascii=False)}\n\n".encode()
            await self.send({"type": "http.response.body", "body": event, "more_body": False})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
