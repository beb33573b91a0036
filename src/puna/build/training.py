"""The stages that train: calibration, pretraining, tuning.

Comes in: packed rows and a plan. Goes out: model folders (weights, config, tokenizer) and their metrics. Must never
happen: a number of the plan decided anew when a killed build goes on.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.build.facts import (
    CALIBRATE_TUNING,
    RATE,
    actual_config,
    actual_shape,
    pretraining_plan,
    trial_tokens,
    tuning_plan,
)
from puna.build.graph import LEDGER, Context, Stage
from puna.build.mixture import most_tokens
from puna.build.origin import ADAPTER, start_of
from puna.build.seed import salt_of
from puna.build.store import LOG, read_manifest
from puna.errors import PunaError
from puna.files import write_json
from puna.ledger import order_commitment
from puna.recipe.base import Adapter as Section
from puna.recipe.scaling import MIN_STEPS, Plan, batch_tokens_of, budget_tokens, plan_pretraining, tuning_batch
from puna.recipe.schema import Sft, Train

if TYPE_CHECKING:
    from puna.model.adapters import Adapter
    from puna.tokens.loader import Batches
    from puna.train.loop import TrainResult


FOLDER, RECORD, STEP0 = "milestones", "run.json", "step0"  # as `puna.train`, which loads torch, calls them


def _train_section(context: Context, stage: str) -> Train:
    if not stage.endswith("reference"):
        return context.recipe.train
    # Rates set by hand are Muon's and its tables'; AdamW takes its own.
    return context.recipe.train.model_copy(update={"method": "reference", "lr_matrix": None, "lr_embed": None})


def calibrate_stage(name: str, capped: bool, starts: tuple[str, ...]) -> Stage:
    """Minutes into tokens, precision and compilation into decisions: once, and recorded.

    `capped`: a source has a max_epochs, so the tokens may be fewer than the budget. `starts`: the stages that make the model of
    step 0, where there is a [base].
    """

    def settings(context: Context) -> Any:
        train = _train_section(context, name).model_dump(exclude={"checkpoint_seconds", "milestones"})
        caps = [source.max_epochs for source in context.recipe.corpus.named]
        base = {"lr_share": _lr_share(context)} if context.recipe.base else {}
        return {
            "train": train,
            "shape": actual_shape(context).model_dump(),
            **base,
            **({"caps": caps} if capped else {}),
        }

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.build.machine import describe, refuse_memory, settle
        from puna.model.device import pick_device
        from puna.train.calibrate import calibrate
        from puna.train.choice import choose

        section, shape = _train_section(context, name), actual_shape(context)
        device = pick_device(section.precision)
        config, share = actual_config(context), _lr_share(context)
        adapter = adapter_of(section.adapter, "train.adapter")
        plan = settle(plan_pretraining(section, shape, trial_tokens(section, shape), share), config, device, adapter)
        for _ in range(2):  # once more where the budget, now known, asks for another batch or another way to compute
            trial = plan
            refuse_memory(trial, config, device, adapter)
            if trial.compile == "on":
                context.progress.note("  compiling the training step first, which takes up to a minute")
            measured = calibrate(config, trial, device, adapter=adapter)
            budget = budget_tokens(section, shape, measured.tokens_per_second)
            tokens = int(min(budget, most_tokens(context))) if capped else budget
            if tokens < budget and tokens < MIN_STEPS * batch_tokens_of(section, tokens, shape.context):
                raise PunaError(f"max_epochs leaves {tokens:,} tokens, which is under {MIN_STEPS} steps", where="corpus.sources",
                                mend="raise max_epochs of the source, or lower its weight")  # fmt: skip
            plan = settle(plan_pretraining(section, shape, tokens, share), config, device, adapter)
            if (plan.rows, plan.compile) == (trial.rows, trial.compile):
                break
        if tokens < budget:
            context.progress.note(f"  corpus.sources: max_epochs ends training at {tokens:,} of {budget:,} tokens")
        if plan.compile == "off":
            why = choose(plan.model_copy(update={"compile": section.compile}), config, device, adapter).compile_reason
            context.progress.note(f"  training is not compiled: {why}")
        write_json(folder / "plan.json", {
            "plan": plan.model_dump(), "shape": shape.model_dump(), "tokens_per_second": measured.tokens_per_second,
            "peak_flops": measured.peak_flops, "share_of_peak": measured.share, "device": describe(device),
        })  # fmt: skip
        context.progress.note(f"  {measured.tokens_per_second:,.0f} tokens/s, {measured.share:.0%} of the matmul peak, "
                              f"{plan.precision}: {plan.tokens / 1e6:.2f} M tokens in {plan.steps} steps")  # fmt: skip
        return {"tokens_per_second": measured.tokens_per_second}

    inputs = ("tokenizer", *(["corpus", "pack"] if capped else []), *starts)
    return Stage(name, "measuring this machine", ("recipe", "model", "train"), inputs, settings, run)


def calibrate_tuning_stage(tune: Sft, starts: tuple[str, ...]) -> Stage:
    """Minutes of tuning into tokens: a stage of its own, so that no change of the tuning reaches the base model.

    One rate serves all tuning stages, measured at the batch of the first that has minutes.
    """

    def trial(context: Context) -> Plan:
        base = pretraining_plan(context)
        return base.model_copy(update={"isolate": True, "batch_tokens": tuning_batch(tune, base)})

    def settings(context: Context) -> Any:
        return {
            "plan": _timeless(trial(context)),
            "shape": actual_shape(context).model_dump(),
            **_adapter_settings(tune.adapter),
        }

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.model.device import pick_device
        from puna.train.calibrate import calibrate

        plan = trial(context)
        if plan.compile == "on":
            context.progress.note("  compiling the tuning step first, which takes up to a minute")
        adapter = adapter_of(tune.adapter, "tune.adapter")
        measured = calibrate(actual_config(context), plan, pick_device(plan.precision), adapter=adapter)
        context.progress.note(f"  {measured.tokens_per_second:,.0f} tokens/s, {measured.share:.0%} of the matmul peak")
        write_json(folder / RATE, {"tokens_per_second": measured.tokens_per_second, "share_of_peak": measured.share})
        return {"tokens_per_second": measured.tokens_per_second}

    return Stage(CALIBRATE_TUNING, "measuring this machine at tuning", ("recipe", "model", "train"), ("tokenizer", *starts),
                 settings, run)  # fmt: skip


def pretrain_stage(name: str, starts: tuple[str, ...]) -> Stage:
    """From random weights, or from those of a [base], to a base model."""
    calibration = "calibrate-reference" if name == "reference" else "calibrate"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        return _train(context, pretraining_plan(context, calibration), "pack", folder, work,
                      start_of(context) if starts else None, chat=False, adapter=context.recipe.train.adapter,
                      milestones=milestones(context))  # fmt: skip

    def settings(context: Context) -> Any:
        return {"plan": _timeless(pretraining_plan(context, calibration)), "shape": actual_shape(context).model_dump(),
                "seed": context.seed, "milestones": milestones(context), **_adapter_settings(context.recipe.train.adapter)}  # fmt: skip

    def milestones(context: Context) -> int:
        return context.recipe.train.milestones if name == "pretrain" else 0  # the reference is not released

    title = "continued pretraining" if starts else "pretraining"
    return Stage(name, title, ("model", "tokens", "train"), ("pack", "tokenizer", *starts), settings, run)


def tune_stage(number: int, tune: Sft) -> Stage:
    """From a base model, or the stage before, to a chat model."""
    before = f"tune-{number - 1}" if number else "pretrain"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        plan = tuning_plan(context, number, tune)
        return _train(context, plan, f"chat-pack-{number}", folder, work, context.done[before], chat=True,
                      adapter=tune.adapter, milestones=context.recipe.train.milestones)  # fmt: skip

    def settings(context: Context) -> Any:
        return {
            "plan": _timeless(tuning_plan(context, number, tune)),
            "seed": context.seed,
            "milestones": context.recipe.train.milestones,
            **_adapter_settings(tune.adapter),
        }

    return Stage(f"tune-{number}", "supervised fine-tuning", ("model", "tokens", "train"),
                 (f"chat-pack-{number}", before, "tokenizer"), settings, run)  # fmt: skip


def _timeless(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(exclude={"checkpoint_seconds"})  # how often a run is saved does not change what it gives


def _lr_share(context: Context) -> float:
    return context.recipe.base.lr_share if context.recipe.base else 1.0


def adapter_of(section: Section | None, where: str) -> "Adapter | None":
    """The adapter that a section asks for. Raises `PunaError` at `where`."""
    from puna.model.adapters import Adapter

    return None if section is None else Adapter.from_recipe(section, where)


def _base_name(context: Context, start: Path | None) -> str:
    """What `peft` calls the base of an adapter: the model as the recipe names it, or what the run made of it."""
    unchanged = start is not None and start == context.done.get("base") and context.recipe.base is not None
    return ", ".join(context.facts("base")["names"]) if unchanged else f"{context.recipe.name}, before this training"


def _adapter_settings(adapter: Section | None) -> dict[str, Any]:
    return {"adapter": adapter.model_dump()} if adapter else {}


def _train(
    context: Context, plan: Plan, rows: str, folder: Path, work: Path, start: Path | None, *, chat: bool, adapter: Section | None,
    milestones: int,
) -> dict[str, Any]:  # fmt: skip
    """`rows`: the stage that packed them. What the ledger must hold is written as it comes, and kept with the artefact."""
    from puna.model.adapter_files import save_adapter
    from puna.model.device import pick_device
    from puna.model.formats import write_huggingface
    from puna.tokens import Tokenizer, write_tokenizer
    from puna.tokens.loader import Batches
    from puna.train.loop import train

    tokenizer = Tokenizer.load(context.done["tokenizer"])
    foreign = tokenizer.stop_ids if context.recipe.base else frozenset()  # a base's own ends stay ends
    named = (tokenizer.im_end_id, tokenizer.eos_id) if chat else (tokenizer.eos_id, *sorted(foreign))
    ends = list(dict.fromkeys(id_ for id_ in named if id_ is not None))
    begins = {"bos_token_id": tokenizer.bos_id} if context.recipe.base else {}
    config = actual_config(context, eos_token_id=ends[0], pad_token_id=tokenizer.pad_id, **begins)
    work.mkdir(parents=True, exist_ok=True)
    batches = Batches(context.done[rows], plan.rows, context.seed)
    told: list[tuple[str, dict[str, Any]]] = []

    def record(kind: str, values: dict[str, Any]) -> None:
        told.append((kind, {"artefact": work.name, **values}))
        context.ledger.append_once(*told[-1])

    record("order", _order(context, batches, rows, plan))
    result = train(plan, config, batches, work, seed=context.seed, init=start, device=pick_device(plan.precision),
                   adapter=adapter_of(adapter, "adapter"), progress=context.progress, milestones=milestones,
                   record=lambda kind, values: record(kind, {**values, **_start_of_step0(kind, start)}))  # fmt: skip
    write_huggingface(replace(result.weights, config=config), folder)
    if result.adapter is not None:
        save_adapter(result.model, result.adapter, folder / ADAPTER, base_name=_base_name(context, start))
    write_tokenizer(context.done["tokenizer"], folder, chat=chat, context=config.max_position_embeddings)
    write_json(folder / "generation_config.json", {
        "bos_token_id": config.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_id,
    })  # fmt: skip
    (folder / LOG).mkdir()
    shutil.copyfile(result.metrics, folder / LOG / "metrics.jsonl")
    shutil.copyfile(work / RECORD, folder / LOG / RECORD)  # what was decided once: a replay must compute as the run did
    if milestones:
        shutil.copytree(work / FOLDER, folder / LOG / FOLDER, copy_function=_link)
    return {LEDGER: told, "steps": result.steps, "tokens": plan.tokens, "skipped": result.skipped, "final_loss": result.final_loss,
            "plan": plan.model_dump(), **_adapter_facts(result)}  # fmt: skip


def _order(context: Context, batches: "Batches", rows: str, plan: Plan) -> dict[str, Any]:
    """What fixes the order in which the rows are read; the first epoch's is committed to under the seed's salt."""
    from puna.tokens.order import ORDER, order_of_epoch

    first = order_of_epoch(context.seed, 0, batches.total_rows)
    return {
        "algorithm": ORDER, "rows": batches.total_rows, "batch_rows": plan.rows, "context": plan.context, "steps": plan.steps,
        "pack": read_manifest(context.done[rows])["content"],
        "first_epoch": order_commitment(salt_of(context.store.run), first.astype("<i8").tobytes()),
    }  # fmt: skip


def _start_of_step0(kind: str, start: Path | None) -> dict[str, Any]:
    """Of step 0: the artefact whose weights they are, or that they come from the seed."""
    return {"from": start.name if start else "seed"} if kind == STEP0 else {}


def _link(source: str, target: str) -> None:
    """A second name for the file, so that it costs no disk; a copy where the system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _adapter_facts(result: "TrainResult") -> dict[str, Any]:
    """What was trained beside frozen weights; `bits` held them while training, the merged model is made from the whole ones."""
    if result.adapter is None:
        return {}
    trained = result.adapter.parameters(result.model.config)
    return {"adapter": {**result.adapter.model_dump(), "parameters": trained, "base": result.base_digest}}
