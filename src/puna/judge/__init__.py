"""Tasks, scoring, baselines, statistics."""
