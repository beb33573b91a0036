"""Tasks, scoring, baselines, statistics. `judge_model` measures; `format_scores` prints."""

from puna.judge.judge import judge_model
from puna.judge.table import format_scores

__all__ = ["format_scores", "judge_model"]
