"""Tasks, scoring, statistics, contamination, the results store.

`judge.judge_model` is a build's first judgement on its own text; `asking.run` puts the leaderboard's tasks to any model. Nothing is
imported here: the board reads results without torch.
"""
