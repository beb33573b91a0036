"""What is to be built, as data: the typed recipe, its defaults and its scaling rules. Imports no torch."""
