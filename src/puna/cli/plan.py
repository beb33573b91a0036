"""`puna plan`: what a build will take."""

import dataclasses
from pathlib import Path

import typer

from puna.cli.verbs import print_json


def run_plan(recipe: Path | None, changes: list[str], *, runs: Path, json: bool) -> None:
    """Print the forecast of a build. Raises `PunaError` where it cannot fit."""
    from puna.build.make import default_recipe
    from puna.build.preflight import forecast
    from puna.recipe.load import load_recipe

    loaded = load_recipe(recipe or default_recipe(), changes)
    seen = forecast(loaded, runs)
    if json:
        shown = {
            f.name: getattr(seen, f.name) for f in dataclasses.fields(seen) if f.name not in ("shape", "plan", "tuning")
        }
        print_json({**shown, "shape": seen.shape.model_dump(), "parameters": seen.shape.params, "plan": seen.plan.model_dump(),
                    "tuning": [plan.model_dump() for plan in seen.tuning]})  # fmt: skip
        return
    shape, plan = seen.shape, seen.plan
    gib = 2**30
    lines = [
        f"Model    {shape.params / 1e6:.1f} M parameters: {shape.layers} layers of {shape.dim}, {shape.heads}/{shape.kv_heads} heads, "
        f"vocabulary {shape.vocab:,},",
        f"         rows of {shape.context} tokens; loads as "
        f"{'Qwen3ForCausalLM' if shape.qk_norm else 'LlamaForCausalLM'}",
        f"Machine  {seen.device['processor']}",
        f"Speed    {seen.tokens_per_second:,.0f} tokens/s in {plan.precision}, {seen.share_of_peak:.0%} of its matmul peak",
        f"Train    {plan.tokens / 1e6:.2f} M tokens: {plan.steps:,} steps of {plan.rows * plan.context:,}",
        f"Memory   {seen.memory_bytes / gib:.1f} GiB of {seen.memory_free / gib:.1f} GiB free",
        f"Disk     {seen.disk_bytes / gib:.2f} GiB of {seen.disk_free / gib:.1f} GiB free",
        "",
    ]
    lines += [f"  {name:<20} {seconds / 60:6.1f} min" for name, seconds in seen.seconds.items() if seconds]
    lines.append(f"  {'together':<20} {sum(seen.seconds.values()) / 60:6.1f} min")
    typer.echo("\n".join(lines))
