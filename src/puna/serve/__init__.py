"""Models behind an HTTP interface in OpenAI's shape, and the page to talk to them, over the engine.

In: requests of strangers. Out: replies, whole or as streams. Must never happen: a request that hurts its neighbours or the machine,
a setting or text of a client that is taken for an instruction to the server, or a reply to one who may not have it.
"""
