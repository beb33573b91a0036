"""The leaderboard as static pages, from the judge's results store. Imports no torch.

`pages.build_board` writes a whole board; `gather` reads results, `compare` and `choice` hold the statistics of pairs and of a choice of
tasks, `family` the lineage, `items` and `downloads` what lies beside the pages.
"""

from puna.board.pages import BoardReport, build_board

__all__ = ["BoardReport", "build_board"]
