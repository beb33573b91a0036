"""A release goes to other servers as it lies: what vLLM, llama.cpp, ollama and systemd read of it and of `recipes/serve/`.

vLLM and ollama are not run by the tests: vLLM's map of names is written down below and every tensor goes through it, and a stand-in
for Go's templates renders the Modelfile's.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests_build_outside import modelfile, rendered_by_go
from typer.main import get_command

from puna.build.convert import convert
from puna.cli.app import app
from puna.engine import Engine
from puna.model.config import ModelConfig
from puna.model.formats import open_model
from puna.serve.settings import KEY_VARIABLE, Settings
from puna.tokens import Tokenizer
from puna.tokens.chat import CHAT_TEMPLATE, render
from puna.tokens.special import END_OF_TEXT, IM_END, IM_START

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "serve"
# Of vLLM's LlamaForCausalLM.load_weights: these parts are stacked into one, in this order.
STACKED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is heapq?"}],
    [{"role": "system", "content": "你是高原上的助手。\n简短回答。"}, {"role": "user", "content": "heapq 是什么？"}],
    [{"role": "user", "content": "a\n\n  b "}, {"role": "assistant", "content": "一个模块：heapq。\n"}, {"role": "user", "content": "再说一遍 🦙"}],
]  # fmt: skip


@pytest.fixture(scope="module")
def release(finished: Any) -> Path:
    return finished.path / "runs/tiny/release"  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["release", "release/base"])
def model(finished: Any, request: pytest.FixtureRequest) -> Path:
    return finished.path / "runs/tiny" / request.param  # type: ignore[no-any-return]


def values(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


# ---- vLLM ----


def parameters_of_vllm(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter that vLLM's LlamaForCausalLM has for this config.json."""
    dim, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], dim),
        "model.norm.weight": (dim,),
    }
    for layer in range(config["num_hidden_layers"]):
        made |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in {
            "input_layernorm": (dim,), "post_attention_layernorm": (dim,), "self_attn.qkv_proj": ((heads + 2 * kv) * head, dim),
            "self_attn.o_proj": (dim, heads * head), "mlp.gate_up_proj": (2 * ffn, dim), "mlp.down_proj": (dim, ffn),
        }.items()}  # fmt: skip
    if not config["tie_word_embeddings"]:  # tied: the head is the embedding, and a stored one would be skipped
        made["lm_head.weight"] = (config["vocab_size"], dim)
    return made


def stacked(stored: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The stored tensors as the loader joins them: rows of stacked parts add up."""
    joined: dict[str, tuple[int, ...]] = {}
    for name, shape in stored.items():
        for part, whole in STACKED.items():
            name = name.replace(f".{part}.", f".{whole}.")
        rows = joined.get(name, (0,))[0] + shape[0]
        joined[name] = (rows, *shape[1:])
    return joined


def test_every_tensor_is_one_that_vllm_maps_and_none_is_missing(model: Path) -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in open_model(model).items()}
    wanted = parameters_of_vllm(values(model, "config.json"))
    assert stacked(stored) == wanted
    assert stacked({name: shape for name, shape in stored.items() if "k_proj" not in name}) != wanted  # it can fail


def test_the_config_has_what_vllm_reads(model: Path) -> None:
    config = values(model, "config.json")
    assert (config["architectures"], config["model_type"], config["hidden_act"]) == (
        ["LlamaForCausalLM"],
        "llama",
        "silu",
    )
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim",
                "vocab_size", "max_position_embeddings"):  # fmt: skip
        assert type(config[key]) is int and config[key] > 0, key
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["rms_norm_eps"] > 0 and config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert (
        config["attention_bias"] is config["mlp_bias"] is False
        and config["dtype"] == config["torch_dtype"] == "float32"
    )
    assert config["rope_scaling"] is None and "auto_map" not in config and "quantization_config" not in config
    # An older vLLM takes the width of a head from these two and not from head_dim.
    assert config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]


def test_transformers_reads_the_config_as_it_is(model: Path) -> None:
    from transformers import AutoConfig

    read, stored = AutoConfig.from_pretrained(model), values(model, "config.json")
    assert type(read).__name__ == "LlamaConfig"
    for key in ("hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size"):
        assert getattr(read, key) == stored[key], key
    assert read.rope_parameters["rope_theta"] == stored["rope_theta"]
    assert ModelConfig.from_hf(stored).to_hf() == stored


def test_the_template_that_others_load_renders_what_is_trained_on(release: Path) -> None:
    from transformers import AutoTokenizer

    loaded, ours = AutoTokenizer.from_pretrained(release), Tokenizer.load(release)
    assert loaded.chat_template == CHAT_TEMPLATE == (release / "chat_template.jinja").read_text(encoding="utf-8")
    for messages in CONVERSATIONS:
        ids = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(ids) == render(ours, messages, add_generation_prompt=True).ids
    assert AutoTokenizer.from_pretrained(release / "base").chat_template is None, "nobody should chat with the base"


def test_a_reply_ends_where_the_files_say(release: Path) -> None:
    ours, generation = Tokenizer.load(release), values(release, "generation_config.json")
    ends = generation["eos_token_id"]
    assert [ours.decode([one], skip_special=False) for one in ends] == [IM_END, END_OF_TEXT]
    assert set(ends) == Engine.load(release, "cpu").stop_ids
    assert generation["bos_token_id"] is None and generation["pad_token_id"] == ours.pad_id
    assert values(release, "config.json")["eos_token_id"] in ends
    base = values(release / "base", "generation_config.json")["eos_token_id"]
    assert ours.decode([base] if isinstance(base, int) else base, skip_special=False) == END_OF_TEXT


# ---- llama.cpp ----


@pytest.fixture(scope="module")
def gguf_file(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    with pytest.MonkeyPatch.context() as patch:  # other readers take part in tests/build/test_convert.py
        patch.setattr("puna.build.other_readers.why_not_transformers", lambda quantised: "left out here")
        patch.setattr("puna.build.other_readers.why_not_llama_cpp", lambda: "left out here")
        assert convert(release, path)["passed"]
    return path


def test_the_gguf_file_has_what_llama_server_needs(gguf_file: Path, release: Path) -> None:
    from gguf import GGUFReader

    reader, config, ours = GGUFReader(gguf_file), values(release, "config.json"), Tokenizer.load(release)
    found = {name: field.contents() for name, field in reader.fields.items()}
    assert (found["general.architecture"], found["llama.context_length"]) == (
        "llama",
        config["max_position_embeddings"],
    )
    assert found["tokenizer.chat_template"] == CHAT_TEMPLATE
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == END_OF_TEXT
    # llama.cpp takes <|im_end|> for the end of a turn by its text, where it is a control token.
    for special in (IM_START, IM_END, END_OF_TEXT):
        assert kinds[tokens.index(special)] == 3 and tokens.index(special) in ours.special_ids
    assert found["tokenizer.ggml.add_bos_token"] is found["tokenizer.ggml.add_eos_token"] is False
    assert len(reader.tensors) == len(open_model(release).names)


# ---- ollama ----


def test_ollamas_template_renders_what_is_trained_on(release: Path) -> None:
    from transformers import AutoTokenizer

    template = modelfile(RECIPES / "Modelfile")["TEMPLATE"][0]
    ours, loaded = Tokenizer.load(release), AutoTokenizer.from_pretrained(release)
    for messages in CONVERSATIONS:
        text = rendered_by_go(template, messages)
        turns = "".join(f"{IM_START}{turn['role']}\n{turn['content']}{IM_END}\n" for turn in messages)
        assert text == f"{turns}{IM_START}assistant\n"
        assert (
            loaded(text, add_special_tokens=False)["input_ids"]
            == render(ours, messages, add_generation_prompt=True).ids
        )


def test_the_modelfile_stops_where_the_release_stops_and_draws_as_puna_does(release: Path) -> None:
    from puna.engine import Sampling

    found = modelfile(RECIPES / "Modelfile")
    assert [name.endswith(".gguf") for name in found["FROM"]] == [True]
    parameters = [tuple(line.split(" ", 1)) for line in found["PARAMETER"]]
    stops = {json.loads(value) for name, value in parameters if name == "stop"}
    ours = Tokenizer.load(release)
    ends = values(release, "generation_config.json")["eos_token_id"]
    assert stops == {ours.decode([one], skip_special=False) for one in ends}
    others = {name: float(value) for name, value in parameters if name != "stop"}
    drawn = Sampling()
    assert others == {"num_ctx": 256, "temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": drawn.top_k, "min_p": drawn.min_p,
                      "repeat_penalty": drawn.repetition_penalty}  # fmt: skip


def test_the_stand_in_for_gos_templates_knows_what_it_does_not_know() -> None:
    assert rendered_by_go("a {{- range .Messages }} {{ .Role }} -{{ end -}} \n b", CONVERSATIONS[0]) == "a user -b"
    with pytest.raises(ValueError, match=re.escape(".System")):
        rendered_by_go("{{ .System }}", [])


# ---- systemd ----


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (RECIPES / "puna.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_runs_a_command_that_puna_takes() -> None:
    found = unit()
    (command,) = found["ExecStart"]
    program, verb, *arguments = command.split()
    assert (program, verb) == ("/opt/puna/bin/puna", "serve")
    group: Any = get_command(app)
    asked = group.commands["serve"].make_context("serve", arguments, parent=group.context_class(group)).params
    assert Settings(host=asked["host"]).loopback and asked["host"] == "127.0.0.1"
    assert float(found["TimeoutStopSec"][0]) > asked["drain"] > 0, "it would be killed while it drains"
    assert f"{KEY_VARIABLE}=" in (RECIPES / "puna.service").read_text(encoding="utf-8")
    assert found["EnvironmentFile"] == ["/etc/puna/serve.env"] and KEY_VARIABLE not in " ".join(found["Environment"])


def test_the_unit_is_held_tight() -> None:
    wanted = {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "ProtectHome": "yes", "PrivateTmp": "yes",
              "CapabilityBoundingSet": "", "SystemCallArchitectures": "native", "IPAddressDeny": "any", "IPAddressAllow": "localhost"}  # fmt: skip
    found = unit()
    assert {key: found[key][0] for key in wanted} == wanted


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    text = (RECIPES / "puna.service").read_text(encoding="utf-8")
    path = tmp_path / "puna.service"  # with a program that is there
    path.write_text(text.replace("ExecStart=/opt/puna/bin/puna", f"ExecStart={sys.executable}"), encoding="utf-8")
    done = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "puna" in line]) == (0, []), done.stderr
    path.write_text(
        path.read_text(encoding="utf-8").replace("ProtectSystem=strict", "ProtectSystem=very"), encoding="utf-8"
    )
    wrong = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True)
    assert "very" in wrong.stderr, "what is wrong is seen"
