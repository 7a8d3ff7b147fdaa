"""LAW: frozen data, closed words, ports and errors. Knows pydantic alone."""
