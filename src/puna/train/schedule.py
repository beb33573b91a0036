"""Learning-rate schedules: what share of the peak rate a step gets.

Comes in: a step's number and the plan. Goes out: a share between 0 and 1. Must never happen: a schedule that remembers
anything: a resumed run asks for step k and gets what the uninterrupted run got.
"""

import math

from puna.recipe.scaling import Plan


def warmup_share(step: int, warmup_steps: int) -> float:
    """Linear rise from 1/warmup_steps at step 0 to 1 at step warmup_steps - 1; 1 from then on."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def wsd(step: int, *, steps: int, warmup_steps: int, decay_share: float, final_share: float) -> float:
    """Warm-up, stable, decay: linear rise, constant, then linear fall over the last `decay_share` of all steps.

    The fall starts at 1 and would reach `final_share` at step `steps`, one past the last, so that the last step still
    learns. Hu et al. 2024 (MiniCPM, arXiv:2404.06395); linear fall: Hägele et al. 2024 (arXiv:2405.18392).
    """
    decay_steps = min(steps - warmup_steps, round(steps * decay_share))
    remaining = steps - step
    fall = 1.0
    if decay_steps > 0 and remaining < decay_steps:
        fall = final_share + (1.0 - final_share) * remaining / decay_steps
    return min(warmup_share(step, warmup_steps), fall)


def cosine(step: int, *, steps: int, warmup_steps: int, final_share: float) -> float:
    """Linear rise, then half a cosine from 1 down to `final_share` at the last step.

    Loshchilov and Hutter 2017 (arXiv:1608.03983) with the warm-up and the floor of GPT-3 and LLaMA.
    """
    if step < warmup_steps:
        return warmup_share(step, warmup_steps)
    way = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, way)))


def rate_share(plan: Plan, step: int) -> float:
    """The share of every peak rate that step `step` (counted from 0) gets under the plan's method."""
    if plan.method == "reference":
        return cosine(step, steps=plan.steps, warmup_steps=plan.warmup_steps, final_share=plan.final_share)
    return wsd(step, steps=plan.steps, warmup_steps=plan.warmup_steps,
               decay_share=plan.decay_share, final_share=plan.final_share)  # fmt: skip
