"""Commands called as from a terminal, in the tests' own process."""

import pytest
from click.testing import CliRunner, Result

from avfuse.features.errors import UsageError
from avfuse.pipeline.cli.main import avfuse


def call(*arguments: object) -> Result:
    """`avfuse` with these arguments; what it raises is raised."""
    return CliRunner().invoke(avfuse, [str(each) for each in arguments], catch_exceptions=False, standalone_mode=False)


def refused(*arguments: object) -> str:
    """The one line with which it ends in a user's mistake."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
