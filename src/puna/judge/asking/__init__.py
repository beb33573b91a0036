"""How models are asked: here, or over HTTP; the answers kept."""
