"""The library: compile DSPy programs on metered models. Knows nothing of Prefect."""
