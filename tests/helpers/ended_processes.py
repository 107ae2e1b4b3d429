"""What ends the process that it is called in, as a lack of memory does."""

import os


def end(*_: object) -> None:
    os._exit(9)
