"""WHAT to run: programs, examples, metrics, metered models, evaluation, optimizers."""
