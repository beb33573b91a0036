"""Tokenizer training, the chat format, documents to packed rows to batches."""
