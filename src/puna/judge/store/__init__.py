"""The results store: one JSON a result, its items beside it, refused when changed by hand.

`store.Store` writes and reads, `importing.import_results` takes in what others measured, `exporting` hands results on,
`query.ask` answers questions in SQL. Nothing in here imports torch.
"""
