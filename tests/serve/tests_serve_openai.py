"""OpenAI's public description of its API, for checking what our server answers. Skips, saying so, where the shared data is not there."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zstandard
from jsonschema import Draft202012Validator

DESCRIPTION = Path(__file__).resolve().parents[3] / "shared" / "data" / "schemas" / "openai-openapi.json.zst"


@cache
def _components() -> dict[str, Any]:
    if not DESCRIPTION.is_file():
        pytest.skip(f"no {DESCRIPTION}")
    raw = zstandard.ZstdDecompressor().decompress(DESCRIPTION.read_bytes(), max_output_size=64 << 20)
    components: dict[str, Any] = json.loads(raw)["components"]
    return components


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": _components()})


def wrong_by_openai(value: Any, name: str) -> list[str]:
    """What OpenAI's schema `name` (Response, say) finds wrong."""
    return [f"{error.json_path}: {error.message[:300]}" for error in _validator(name).iter_errors(value)]
