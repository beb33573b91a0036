"""The record of how a model came to be."""
