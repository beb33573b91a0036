"""Changes of a model before it is trained on: deeper, wider, smaller, longer, of another vocabulary, of several models.

Comes in: `Weights`. Goes out: `Weights`, each tensor made when it is asked for. Must never happen: a model that is said to
compute what it did before, and does not.
"""
