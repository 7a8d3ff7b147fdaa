"""STEPS: one verb each, retried and timed. A step takes ports and calls one room; it never calls another step."""
