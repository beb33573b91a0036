"""Inference: KV cache, sampling, batched generation, the conversation."""
