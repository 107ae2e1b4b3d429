"""Which heads train side by side."""

import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from avfuse.stages.fuse.plan import Plan
from avfuse.stages.fuse.together import SIDE_BY_SIDE, trains_together
from avfuse.stages.fuse.training import PER_HEAD

Item = TypeVar("Item")


def kind_of(plan: Plan) -> str | None:
    """What heads that share a pass have in common, as text; None for a head that trains alone."""
    if not trains_together(plan.head, plan.data, plan.options, plan.recipe):
        return None
    recipe = plan.recipe.model_dump(exclude=set(PER_HEAD))
    return json.dumps([plan.head, plan.options.model_dump(), recipe, str(plan.data.shapes)])


def companies(items: Sequence[Item], kinds: Iterable[str | None], most: int = SIDE_BY_SIDE) -> list[list[Item]]:
    """Items in companies of one kind, at most so many in each; what is of no kind is alone.

    What trains together depends on what was asked for, not on what is there already: after a run that was broken off,
    a head then comes out of the same sums as in an unbroken one.

    kinds: of each item, as `kind_of` its plan.
    """
    found: list[list[Item]] = []
    open_ones: dict[str, list[Item]] = {}
    for item, kind in zip(items, kinds, strict=True):
        company = None if kind is None else open_ones.get(kind)
        if company is None or len(company) == most:
            company = []
            found.append(company)
            if kind is not None:
                open_ones[kind] = company
        company.append(item)
    return found
