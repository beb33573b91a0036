"""What one model inherits from another, layer by layer of evidence, and how sure one can be.

Comes in: models on disk, or behind an API; a maker's own ledger. Goes out: a `verdict.Lineage` of six layers that are never merged.
Must never happen: an architecture that counts for the weights, or a p-value without its null.

This file imports nothing, so that the board and the reports read verdicts without torch.
"""
