"""Objectives, optimisers, schedules, the step loop, checkpoints."""
