"""One engine of `serve_speed` in a process of its own: a line when it is ready, then a line for every line asked.

In: as argument, one JSON object {"engine", "folder", "threads", "streams", "context"}; on stdin, one JSON object a line
{"prompts": [[id, ...], ...], "new": tokens}. Out: one JSON object a line: {"seconds", "first": [seconds to each stream's first
token], "ids": [[id, ...], ...], "peak": bytes}; the first line is {"version", "load_seconds"}, or {"absent": why}.
Must never happen: an engine stops before `new` tokens, or is spared work that another does (each chooses the likeliest token,
ids go in and ids come out, no text is made).

It runs under the interpreter that has the peers, so it imports nothing of Puna but for Puna's own engines.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Made:
    """What the streams of one piece of work got: seconds to each one's first token, and its ids (or, where they are not told, how
    many)."""

    first: list[float]
    ids: list[list[int]] | None = None
    counts: list[int] = field(default_factory=list)


Run = Callable[[list[list[int]], int], Made]
"""(prompts, new tokens) -> what was made."""


def own_peak() -> int:
    """The most bytes this process ever held in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError("this system does not tell a process's peak memory")
    return int(found[1]) * 1024


@dataclass
class Ready:
    """An engine that can work."""

    run: Run
    version: str
    peak: Callable[[], int] = own_peak


class Absent(Exception):
    """This engine is not installed here, or does not offer what was asked."""


def main() -> None:
    told = json.loads(sys.argv[1])
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"})
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes where it does not disturb
    family, *rest = told["engine"].split()
    begin = time.perf_counter()
    try:
        ready = FAMILIES[family](" ".join(rest), Path(told["folder"]), told)
    except ImportError as error:
        print(json.dumps({"absent": f"not installed ({error})"}), file=answers, flush=True)
        return
    except Absent as error:
        print(json.dumps({"absent": str(error)}), file=answers, flush=True)
        return
    seconds = time.perf_counter() - begin
    print(json.dumps({"version": ready.version, "load_seconds": seconds}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        made = ready.run(asked["prompts"], asked["new"])
        seconds = time.perf_counter() - begin
        counts = made.counts if made.ids is None else [len(ids) for ids in made.ids]
        told = {"seconds": seconds, "first": made.first, "ids": made.ids, "counts": counts, "peak": ready.peak()}
        print(json.dumps(told), file=answers, flush=True)


def transformers_engine(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """`generate` as everybody calls it: dynamic cache, eager, the streams as one batch."""
    import torch
    import transformers

    torch.set_num_threads(told["threads"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "hf", dtype=dtype).eval()

    class First:
        """Notes when the first tokens come; `generate` gives it the prompt first."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, _: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def run(prompts: list[list[int]], new: int) -> Made:
        ids, first, begin = torch.tensor(prompts), First(), time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=-1,
                pad_token_id=0, streamer=first,
            )  # fmt: skip
        return Made([first.times[1] - begin] * len(prompts), out[:, ids.shape[1] :].tolist())

    return Ready(run, transformers.__version__)


def llama_cpp_engine(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """The library's batch interface as llama-server uses it: all prompts in one batch, then one token of each a step."""
    import ctypes

    import llama_cpp
    import numpy as np
    from llama_cpp import llama_cpp as c

    c.llama_backend_init()
    quiet = c.llama_log_callback(lambda *_: None)
    c.llama_log_set(quiet, ctypes.c_void_p(0))
    kind, *plain = kind.split()
    loading = c.llama_model_default_params()
    loading.use_extra_bufts = not plain  # "plain": without the matrix units, which some builds cannot use
    model = c.llama_model_load_from_file(str(folder / f"{kind}.gguf").encode(), loading)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {kind}.gguf")
    vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    settings = c.llama_context_default_params()
    settings.n_ctx = told["streams"] * told["context"]
    settings.n_batch = max(2048, told["streams"])  # llama-server's default
    settings.n_seq_max = told["streams"]
    settings.n_threads = settings.n_threads_batch = told["threads"]
    context = c.llama_init_from_model(model, settings)
    batch = c.llama_batch_init(settings.n_batch, 0, 1)

    def decode(tokens: list[tuple[int, int, int, bool]]) -> None:
        """(id, position, stream, are its logits wanted) of each token."""
        batch.n_tokens = len(tokens)
        for at, (id_, position, stream, wanted) in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = id_, position, 1
            batch.seq_id[at][0], batch.logits[at] = stream, wanted
        if c.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")

    def run(prompts: list[list[int]], new: int) -> Made:
        begin = time.perf_counter()
        c.llama_memory_clear(c.llama_get_memory(context), True)
        tokens = [
            (id_, position, stream, position == len(ids) - 1)
            for stream, ids in enumerate(prompts)
            for position, id_ in enumerate(ids)
        ]
        replies: list[list[int]] = [[] for _ in prompts]
        first = [0.0] * len(prompts)

        def choose(streams: list[int]) -> None:
            """Logits of the wanted tokens lie in a row, in the order asked."""
            logits = np.ctypeslib.as_array(c.llama_get_logits(context), shape=(len(streams), vocab))
            for stream, id_ in zip(streams, logits.argmax(-1).tolist(), strict=True):
                if not replies[stream]:
                    first[stream] = time.perf_counter() - begin
                replies[stream].append(id_)

        for start in range(0, len(tokens), settings.n_batch):
            part = tokens[start : start + settings.n_batch]
            decode(part)
            if ended := [stream for _, _, stream, wanted in part if wanted]:
                choose(ended)
        length = len(prompts[0])
        for step in range(new - 1):
            decode([(ids[-1], length + step, stream, True) for stream, ids in enumerate(replies)])
            choose(list(range(len(prompts))))
        return Made(first, replies)

    return Ready(run, f"llama-cpp-python {llama_cpp.__version__}")


def ctranslate2_engine(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """`Generator.generate_batch`, the streams as one batch; converted by its own converter from the same folder."""
    import ctranslate2

    offered = ctranslate2.get_supported_compute_types("cpu")
    wanted = {"fp32": "float32", "int8": "int8_float32", "int8_bfloat16": "int8_bfloat16"}[kind]
    if wanted not in offered:
        raise Absent(f"not offered on this CPU (offered: {', '.join(sorted(offered))})")
    made = folder / "ctranslate2"
    if not made.exists():
        ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(str(made))
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        named = {key: config["eos_token"] for key, value in config.items() if key.endswith("_token") and value is None}
        (made / "config.json").write_text(json.dumps(config | named), encoding="utf-8")  # it reads no null
    model = ctranslate2.Generator(str(made), compute_type=wanted, intra_threads=told["threads"], inter_threads=1)
    tokens = json.loads((made / "vocabulary.json").read_text(encoding="utf-8"))
    # It must end somewhere, and may not say before what ends it: padding, which no model says.
    padding = next((number for number, token in enumerate(tokens) if token in ("<|pad|>", "<pad>", "[PAD]")), 0)

    def run(prompts: list[list[int]], new: int) -> Made:
        first = [0.0] * len(prompts)

        def note(step: Any) -> bool:
            if step.step == 0:
                first[step.batch_id] = time.perf_counter() - begin
            return False

        begin = time.perf_counter()
        found = model.generate_batch(
            [[tokens[id_] for id_ in ids] for ids in prompts], max_length=new, min_length=new, end_token=[padding], sampling_topk=1,
            include_prompt_in_result=False, callback=note,
        )  # fmt: skip
        return Made(first, [one.sequences_ids[0] for one in found])

    return Ready(run, ctranslate2.__version__)


def openvino_engine(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """OpenVINO GenAI's continuous batching, from a GGUF file. It computes in bf16 where the CPU can, unless told."""
    import numpy as np

    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report to Google Analytics
    import openvino
    import openvino_genai as genai

    source, exact = {"fp32": ("f16", True), "bf16": ("f16", False), "int8": ("q8_0", False)}[kind]
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.enable_prefix_caching, scheduler.cache_size = told["streams"], False, 2
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": told["threads"]}
    if exact:
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipe = genai.ContinuousBatchingPipeline(folder / f"{source}.gguf", scheduler, "CPU", settings)
    asked = 0

    def run(prompts: list[list[int]], new: int) -> Made:
        nonlocal asked
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        first, replies = [0.0] * len(prompts), [[] for _ in prompts]
        begin = time.perf_counter()
        handles = []
        for ids in prompts:
            handles.append(pipe.add_request(asked, openvino.Tensor(np.array([ids], dtype=np.int64)), config))
            asked += 1
        while pipe.has_non_finished_requests():
            pipe.step()
            for stream, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        first[stream] = first[stream] or time.perf_counter() - begin
                        replies[stream].extend(output.generated_ids)
        return Made(first, replies)

    return Ready(run, f"{openvino.__version__.split('-')[0]}, GenAI {genai.__version__.split('-')[0]}")


def puna_engine(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """Puna's loop as `puna serve` runs it, asked within the process: PRECISION [openvino] [lookup]."""
    import asyncio

    import torch

    import puna
    from puna.engine.batch import Limits
    from puna.engine.engine import Engine
    from puna.engine.loop import Loop
    from puna.engine.request import Request
    from puna.engine.sampling import Sampling

    torch.set_num_threads(told["threads"])
    if kind.startswith("serve "):
        return served(kind.removeprefix("serve "), folder, told)
    precision, *further = kind.split()
    if "openvino" in further:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as above
        import openvino  # noqa: F401 (where it is not installed, this row says so)
    backend = "openvino" if "openvino" in further else "torch"
    engine = Engine.load(folder / "hf", "cpu", precision=precision, backend=backend)  # type: ignore[arg-type]
    engine.stop_ids = frozenset()
    loop = Loop(
        engine, Limits(lookup="lookup" in further, cache_tokens=told["streams"] * (told["context"] + 64))
    ).start()

    async def one(ids: list[int], new: int, begin: float) -> tuple[list[int], float]:
        reply: list[int] = []
        first = 0.0
        async for delta in loop.submit(Request(tuple(ids), Sampling(temperature=0.0, max_tokens=new))):
            reply.extend(delta.ids)
            first = first or (time.perf_counter() - begin if reply else 0.0)
        return reply, first

    async def together(prompts: list[list[int]], new: int) -> list[tuple[list[int], float]]:
        begin = time.perf_counter()
        return await asyncio.gather(*(one(ids, new, begin) for ids in prompts))

    def run(prompts: list[list[int]], new: int) -> Made:
        found = asyncio.run(together(prompts, new))
        return Made([first for _, first in found], [ids for ids, _ in found])

    return Ready(run, puna.__version__)


def served(kind: str, folder: Path, told: dict[str, Any]) -> Ready:
    """The same through HTTP: `puna serve` in a process of its own, completions of ids, as streams."""
    import asyncio
    import atexit

    import puna
    from _serve_client import Served, ask, memory

    precision, *further = kind.split()
    backend = "openvino" if "openvino" in further else "torch"
    cache = str(told["streams"] * (told["context"] + 64))  # whole blocks
    more = ["--precision", precision, "--backend", backend, "--cache-tokens", cache]
    server = Served((folder / "hf").resolve(), *more, threads=told["threads"])
    atexit.register(server.stop)

    async def one(ids: list[int], new: int) -> tuple[int, float]:
        body = {"model": server.models[0], "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
        answer = await ask(server.address, "POST", "/v1/completions", body)
        if answer.status != 200 or not answer.whole or len(answer.events) < 3:
            raise RuntimeError(f"HTTP {answer.status}: {answer.body[:200]!r}")
        usage = json.loads(answer.events[-2][1])["usage"]  # the last one is [DONE]
        return usage["completion_tokens"], answer.events[0][0]

    async def together(prompts: list[list[int]], new: int) -> list[tuple[int, float]]:
        return await asyncio.gather(*(one(ids, new) for ids in prompts))

    def run(prompts: list[list[int]], new: int) -> Made:
        found = asyncio.run(together(prompts, new))
        return Made([first for _, first in found], counts=[count for count, _ in found])

    return Ready(run, puna.__version__, lambda: memory(server.pid, "VmHWM"))


FAMILIES: dict[str, Callable[[str, Path, dict[str, Any]], Ready]] = {
    "transformers": transformers_engine,
    "llama.cpp": llama_cpp_engine,
    "CTranslate2": ctranslate2_engine,
    "OpenVINO": openvino_engine,
    "puna": puna_engine,
}


if __name__ == "__main__":
    main()
