"""The stages that train: calibration, pretraining, tuning.

Comes in: packed rows and a plan. Goes out: model folders (weights, config, tokenizer) and their metrics. Must never
happen: a number of the plan decided anew when a killed build goes on.
"""

import shutil
from pathlib import Path
from typing import Any

from puna.build.facts import CALIBRATE_TUNING, RATE, actual_shape, pretraining_plan, trial_tokens, tuning_plan
from puna.build.graph import Context, Stage
from puna.build.mixture import most_tokens
from puna.build.store import LOG
from puna.errors import PunaError
from puna.files import write_json
from puna.recipe.scaling import MIN_STEPS, Plan, batch_tokens_of, budget_tokens, plan_pretraining, tuning_batch
from puna.recipe.schema import Sft, Train


def _train_section(context: Context, stage: str) -> Train:
    if not stage.endswith("reference"):
        return context.recipe.train
    # Rates set by hand are Muon's and its tables'; AdamW takes its own.
    return context.recipe.train.model_copy(update={"method": "reference", "lr_matrix": None, "lr_embed": None})


def calibrate_stage(name: str, capped: bool) -> Stage:
    """Minutes into tokens, precision and compilation into decisions: once, and recorded.

    `capped`: a source has a max_epochs, so the tokens may be fewer than the budget.
    """

    def settings(context: Context) -> Any:
        train = _train_section(context, name).model_dump(exclude={"checkpoint_seconds"})
        caps = [source.max_epochs for source in context.recipe.corpus.named]
        return {"train": train, "shape": actual_shape(context).model_dump(), **({"caps": caps} if capped else {})}

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.build.machine import describe, refuse_memory, settle
        from puna.model.config import ModelConfig
        from puna.model.device import pick_device
        from puna.train.calibrate import calibrate
        from puna.train.choice import choose

        section, shape = _train_section(context, name), actual_shape(context)
        device = pick_device(section.precision)
        config = ModelConfig.from_shape(shape)
        plan = settle(plan_pretraining(section, shape, trial_tokens(section, shape)), config, device)
        for _ in range(2):  # once more where the budget, now known, asks for another batch or another way to compute
            trial = plan
            refuse_memory(trial, config, device)
            if trial.compile == "on":
                context.progress.note("  compiling the training step first, which takes up to a minute")
            measured = calibrate(config, trial, device)
            budget = budget_tokens(section, shape, measured.tokens_per_second)
            tokens = int(min(budget, most_tokens(context))) if capped else budget
            if tokens < budget and tokens < MIN_STEPS * batch_tokens_of(section, tokens, shape.context):
                raise PunaError(f"max_epochs leaves {tokens:,} tokens, which is under {MIN_STEPS} steps", where="corpus.sources",
                                mend="raise max_epochs of the source, or lower its weight")  # fmt: skip
            plan = settle(plan_pretraining(section, shape, tokens), config, device)
            if (plan.rows, plan.compile) == (trial.rows, trial.compile):
                break
        if tokens < budget:
            context.progress.note(f"  corpus.sources: max_epochs ends training at {tokens:,} of {budget:,} tokens")
        if plan.compile == "off":
            why = choose(plan.model_copy(update={"compile": section.compile}), config, device).compile_reason
            context.progress.note(f"  training is not compiled: {why}")
        write_json(folder / "plan.json", {
            "plan": plan.model_dump(), "shape": shape.model_dump(), "tokens_per_second": measured.tokens_per_second,
            "peak_flops": measured.peak_flops, "share_of_peak": measured.share, "device": describe(device),
        })  # fmt: skip
        context.progress.note(f"  {measured.tokens_per_second:,.0f} tokens/s, {measured.share:.0%} of the matmul peak, "
                              f"{plan.precision}: {plan.tokens / 1e6:.2f} M tokens in {plan.steps} steps")  # fmt: skip
        return {"tokens_per_second": measured.tokens_per_second}

    inputs = ("tokenizer", "corpus", "pack") if capped else ("tokenizer",)
    return Stage(name, "measuring this machine", ("recipe", "model", "train"), inputs, settings, run)


def calibrate_tuning_stage(tune: Sft) -> Stage:
    """Minutes of tuning into tokens: a stage of its own, so that no change of the tuning reaches the base model.

    One rate serves all tuning stages, measured at the batch of the first that has minutes.
    """

    def trial(context: Context) -> Plan:
        base = pretraining_plan(context)
        return base.model_copy(update={"isolate": True, "batch_tokens": tuning_batch(tune, base)})

    def settings(context: Context) -> Any:
        return {"plan": _timeless(trial(context)), "shape": actual_shape(context).model_dump()}

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.model.config import ModelConfig
        from puna.model.device import pick_device
        from puna.train.calibrate import calibrate

        plan = trial(context)
        if plan.compile == "on":
            context.progress.note("  compiling the tuning step first, which takes up to a minute")
        measured = calibrate(ModelConfig.from_shape(actual_shape(context)), plan, pick_device(plan.precision))
        context.progress.note(f"  {measured.tokens_per_second:,.0f} tokens/s, {measured.share:.0%} of the matmul peak")
        write_json(folder / RATE, {"tokens_per_second": measured.tokens_per_second, "share_of_peak": measured.share})
        return {"tokens_per_second": measured.tokens_per_second}

    return Stage(CALIBRATE_TUNING, "measuring this machine at tuning", ("recipe", "model", "train"), ("tokenizer",),
                 settings, run)  # fmt: skip


def pretrain_stage(name: str) -> Stage:
    """From random weights to a base model."""
    calibration = "calibrate-reference" if name == "reference" else "calibrate"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        return _train(context, pretraining_plan(context, calibration), context.done["pack"], folder, work, None)

    def settings(context: Context) -> Any:
        return {"plan": _timeless(pretraining_plan(context, calibration)), "shape": actual_shape(context).model_dump(),
                "seed": context.seed}  # fmt: skip

    return Stage(name, "pretraining", ("model", "tokens", "train"), ("pack", "tokenizer"), settings, run)


def tune_stage(number: int, tune: Sft) -> Stage:
    """From a base model, or the stage before, to a chat model."""
    before = f"tune-{number - 1}" if number else "pretrain"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        plan = tuning_plan(context, number, tune)
        return _train(context, plan, context.done[f"chat-pack-{number}"], folder, work, context.done[before])

    def settings(context: Context) -> Any:
        return {"plan": _timeless(tuning_plan(context, number, tune)), "seed": context.seed}

    return Stage(f"tune-{number}", "supervised fine-tuning", ("model", "tokens", "train"),
                 (f"chat-pack-{number}", before, "tokenizer"), settings, run)  # fmt: skip


def _timeless(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(exclude={"checkpoint_seconds"})  # how often a run is saved does not change what it gives


def _train(context: Context, plan: Plan, rows: Path, folder: Path, work: Path, start: Path | None) -> dict[str, Any]:
    from puna.model.config import ModelConfig
    from puna.model.device import pick_device
    from puna.model.formats import save_model
    from puna.tokens import Tokenizer, write_tokenizer
    from puna.tokens.loader import Batches
    from puna.train.loop import train

    tokenizer, shape, chat = Tokenizer.load(context.done["tokenizer"]), actual_shape(context), start is not None
    ends = [tokenizer.im_end_id, tokenizer.eos_id] if chat else [tokenizer.eos_id]
    config = ModelConfig.from_shape(shape, eos_token_id=ends[0], pad_token_id=tokenizer.pad_id)
    work.mkdir(parents=True, exist_ok=True)
    batches = Batches(rows, plan.rows, context.seed)
    result = train(plan, config, batches, work, seed=context.seed, init=start, device=pick_device(plan.precision),
                   progress=context.progress)  # fmt: skip
    save_model(result.model, config, folder)
    write_tokenizer(context.done["tokenizer"], folder, chat=chat, context=shape.context)
    write_json(folder / "generation_config.json", {
        "bos_token_id": None, "eos_token_id": ends, "pad_token_id": tokenizer.pad_id,
    })  # fmt: skip
    (folder / LOG).mkdir()
    shutil.copyfile(result.metrics, folder / LOG / "metrics.jsonl")
    return {"steps": result.steps, "tokens": plan.tokens, "skipped": result.skipped, "final_loss": result.final_loss,
            "plan": plan.model_dump()}  # fmt: skip
