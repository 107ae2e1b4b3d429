"""The two kinds of error avfuse raises on purpose."""


class UsageError(Exception):
    """A user's mistake. The message is one line that names the wrong value and what to do."""


class ClipError(Exception):
    """A failure of one clip. It is recorded with its stage and never ends a run.

    stage: `open`, `decode`, `render`, `encode` or `worker`.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage
        self.message = message

    def __reduce__(self) -> tuple[type["ClipError"], tuple[str, str]]:
        return type(self), (self.stage, self.message)
