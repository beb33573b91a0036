"""The HTML report of a build: templates and plots, no logic."""
