"""Objectives, optimisers, schedules, the step loop, checkpoints.

Comes in: a plan, a model's config, batches. Goes out: trained weights and the log of how they came to be. Must never
happen: a run that depends on when it was interrupted. The public face is `puna.train.loop.train`,
`puna.train.calibrate.calibrate`, `puna.train.metrics.read_metrics` and `puna.train.checkpoint`.
"""
