"""The two kinds of error avfuse raises on purpose."""


class UsageError(Exception):
    """A mistake in what was asked. The message is one line that names the wrong thing and the way out."""


class ClipError(Exception):
    """Something is wrong with one clip. It costs that clip, never the run, and is recorded with its stage.

    `stage` is where it happened: `open`, `decode`, `render`, `encode`, `worker`.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage
        self.message = message

    def __reduce__(self) -> tuple[type["ClipError"], tuple[str, str]]:
        return type(self), (self.stage, self.message)
