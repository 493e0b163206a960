"""What ends the demo."""


class DemoError(Exception):
    """The demo cannot go on; the text is for people. `status` is the exit status: 2 for what the caller must change."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
