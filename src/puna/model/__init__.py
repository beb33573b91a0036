"""The decoder and its config; reading and writing weights."""
