"""What a model is asked: task files read, their questions written out, and handed to lm_eval as finished rows."""
