"""The fourth layer: which tensors of the one model stem from the other."""
