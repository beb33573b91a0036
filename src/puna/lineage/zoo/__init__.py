"""A family of small models whose descent is known because it was made: what the tests say of them is how far the tests can be trusted.

Comes in: a size and a seed. Goes out: the family, each member judged, and the rates at which the tests err. Must never happen: a rate from
models that the rules were chosen on.
"""
