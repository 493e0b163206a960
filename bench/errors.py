"""What makes figures worthless."""


class BenchError(Exception):
    """The benchmark cannot go on, or a subject did not do what it was measured at. The text is for people."""
