"""WHY it worked: what happened in a run, as one stream that others fold."""
