"""A completions server on this machine over a real model, in the manners of several programs, with faults on demand."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from puna.engine import Engine, Sampling

Handler = Callable[[BaseHTTPRequestHandler], bool]  # True: it has answered


@dataclass
class Manner:
    """How a server answers."""

    offsets: str = "characters"  # or "bytes", "lengths" (vLLM: the tokens' own lengths), "none"
    parts: str = "bytes"  # of a character: OpenAI's "bytes:\\xe4", or vLLM's "\ufffd"
    begin: bool = True  # whether the begin token is among those told of
    echo: bool = True
    zero: bool = True  # whether max_tokens 0 is taken
    prompt_logprobs: bool = False
    native: bool = False  # llama.cpp's own paths
    context: int | None = None
    models: tuple[str, ...] = ("stories",)


@dataclass
class Served:
    """A running server: what it was asked, and faults that are tried before its own answers."""

    engine: Engine
    manner: Manner = field(default_factory=Manner)
    faults: list[Handler] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "Served":
        served = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body go out as two pieces

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                served.asked.append((self.path, dict(self.headers), None))
                if not any(fault(self) for fault in served.faults):
                    row = {"object": "model"} | (
                        {"max_model_len": served.manner.context} if served.manner.context else {}
                    )
                    send(self, 200, {"data": [{"id": name, **row} for name in served.manner.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.asked.append((self.path, dict(self.headers), body))
                if not any(fault(self) for fault in served.faults):
                    served.answer(self, body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def posts(self, path: str) -> list[Any]:
        return [body for asked, _, body in self.asked if asked == path]

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if self.manner.native and handler.path == "/tokenize":
            ids = (
                self.engine.begin(body["content"])
                if body["add_special"]
                else self.engine.tokenizer.encode(body["content"])
            )
            return send(handler, 200, {"tokens": ids})
        if self.manner.native and handler.path == "/completion":
            return send(handler, 200, self._native(body))
        if body.get("model") not in self.manner.models:
            return send(handler, 404, {"error": {"message": f"The model `{body.get('model')}` does not exist"}})
        if handler.path == "/v1/chat/completions":
            talk = self.engine.tokenizer.encode(" ".join(turn["content"] for turn in body["messages"]))
            reply = self._written([1, *talk], body)
            return send(handler, 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": reply}}]})
        if handler.path != "/v1/completions":
            return send(handler, 404, {"error": "no such path"})
        ids = self.engine.begin(body["prompt"])
        if self.manner.context and len(ids) + body["max_tokens"] > self.manner.context:
            said = f"This model's maximum context length is {self.manner.context} tokens, your prompt has {len(ids)}"
            return send(handler, 400, {"error": {"message": said}})
        if body["max_tokens"] == 0 and not self.manner.zero:
            return send(handler, 400, {"error": {"message": "max_tokens must be at least 1"}})
        return send(handler, 200, self._completion(ids, body))

    def _written(self, ids: list[int], body: dict[str, Any]) -> str:
        sampling = Sampling(
            max_tokens=body["max_tokens"], temperature=body["temperature"], stop=tuple(body.get("stop", ()))
        )
        return self.engine.complete([ids], sampling)[0].text

    def _completion(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("echo"):
            choice: dict[str, Any] = {"index": 0, "text": self._written(ids, body), "logprobs": None}
            if body.get("prompt_logprobs") is not None and self.manner.prompt_logprobs:
                choice["prompt_logprobs"] = self._prompt_logprobs(ids)
            return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}
        more = []
        for _ in range(body["max_tokens"]):
            more.append(int(self.logprobs([*ids, *more])[-1].argmax()))
        text = self.engine.tokenizer.decode(more)
        if not self.manner.echo:
            lists = self.lists([*ids, *more], "")
            return {"choices": [{"index": 0, "text": text, "logprobs": {k: v[len(ids) :] for k, v in lists.items()}}]}
        lists = self.lists([*ids, *more], body["prompt"] + text)
        if not self.manner.begin:
            lists = {key: values[1:] for key, values in lists.items()}
            lists["token_logprobs"][0] = lists["top_logprobs"][0] = None
        if self.manner.offsets == "none":
            del lists["text_offset"]
        return {"choices": [{"index": 0, "text": body["prompt"] + text, "logprobs": lists}],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": len(more)}}  # fmt: skip

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        model = self.engine.model
        return model.logits(model(torch.tensor([ids])))[0].float().log_softmax(-1)

    def shown(self, id_: int, first: bool) -> str:
        data = self.engine.tokenizer.token_bytes(id_, starts_text=first)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data) if self.manner.parts == "bytes" else "\ufffd"

    def lists(self, ids: list[int], text: str) -> dict[str, list[Any]]:
        rows, tokens, logprobs, top, offsets, passed = self.logprobs(ids), [], [], [], [], b""
        for place, id_ in enumerate(ids):
            begin = place == 0 and id_ == self.engine.tokenizer.bos_id
            token = "<s>" if begin else self.shown(id_, place == 1)
            if self.manner.offsets == "lengths":
                offsets.append(sum(map(len, tokens)))
            else:  # whole characters that stand before it
                offsets.append(len(passed) if self.manner.offsets == "bytes" else len(passed.decode(errors="ignore")))
            tokens.append(token)
            passed += b"" if begin else self.engine.tokenizer.token_bytes(id_, starts_text=place == 1)
            if place == 0:
                logprobs.append(None)
                top.append(None)
            else:
                row = rows[place - 1]
                logprobs.append(float(row[id_]))
                top.append({self.shown(int(row.argmax()), place == 1): float(row.max())})
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}

    def _prompt_logprobs(self, ids: list[int]) -> list[Any]:
        rows, told = self.logprobs(ids), [None]
        for place, id_ in enumerate(ids[1:]):
            row = rows[place]
            best = int(row.argmax())
            ways = {id_: float(row[id_]), best: float(row[best])}
            told.append({str(way): {"logprob": value, "decoded_token": self.shown(way, place == 0),
                                    "rank": int((row > row[way]).sum()) + 1} for way, value in ways.items()})  # fmt: skip
        return told

    def _native(self, body: dict[str, Any]) -> dict[str, Any]:
        values, ids = self.logprobs(body["prompt"])[-1].topk(min(body["n_probs"], self.engine.config.vocab_size))
        top = [
            {"id": id_, "logprob": value, "token": "", "bytes": []}
            for id_, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        return {
            "content": "",
            "completion_probabilities": [{"id": top[0]["id"], "logprob": top[0]["logprob"], "top_logprobs": top}],
        }


def send(handler: BaseHTTPRequestHandler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
    """Answer with JSON, or with bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
        handler.send_header(name, text)
    handler.end_headers()
    handler.wfile.write(data)


def once(answer: Callable[[BaseHTTPRequestHandler], None], times: int = 1, path: str = "/v1/completions") -> Handler:
    """A fault that comes `times` times at a path."""
    left = [times]

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path != path or not left[0]:
            return False
        left[0] -= 1
        answer(handler)
        return True

    return fault


def drip(handler: BaseHTTPRequestHandler) -> None:
    """An answer that never ends, a byte at a time."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return
