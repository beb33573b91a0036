"""Runs a recipe: the stage graph, the artefact store, resume, the pre-flight plan."""
