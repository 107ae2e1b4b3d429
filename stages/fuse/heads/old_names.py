"""The head API's old names, for heads that users wrote against it: they work for one release, with a FutureWarning."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_METHODS = {
    "doors": "modality_inputs",
    "fit_at_once": "fit_without_epochs",
    "parents_recipe": "parent_recipe_overrides",
    "read": "fill_missing",
    "sees": "used_modalities",
    "start_from": "init_from_parents",
}
_ATTRIBUTES = {
    "evaluation_batch": "evaluation_batch_size",
    "fits_at_once": "fits_without_epochs",
    "takes_raw": "accepts_filter_bank",
}
_ARGUMENTS = {"as_is": "unstandardised", "forms": "layouts"}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def accept_old_arguments(init: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator of `Head.__init__`: old keyword arguments are passed on under their new names."""

    @wraps(init)
    def renamed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for old in _ARGUMENTS.keys() & kwargs.keys():
            _warn(f"argument {old}=", f"{_ARGUMENTS[old]}=", 3)
            kwargs[_ARGUMENTS[old]] = kwargs.pop(old)
        return init(*args, **kwargs)

    return renamed


class OldHeadNames:
    """Base of `Head`: a subclass may define and call what the head API had under the old names."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in (_METHODS | _ATTRIBUTES).items():
            if old in cls.__dict__ and new not in cls.__dict__:
                _warn(f"{cls.__name__}.{old}", new, 3)
                setattr(cls, new, cls.__dict__[old])

    @classmethod
    def sees(cls, *args: Any) -> Any:
        return _call(cls, cls, "sees", args)

    @classmethod
    def parents_recipe(cls, *args: Any) -> Any:
        return _call(cls, cls, "parents_recipe", args)

    def doors(self) -> Any:
        return _call(type(self), self, "doors", ())

    def read(self, *args: Any) -> Any:
        return _call(type(self), self, "read", args)

    def start_from(self, *args: Any) -> Any:
        return _call(type(self), self, "start_from", args)

    def fit_at_once(self, *args: Any, **kwargs: Any) -> Any:
        return _call(type(self), self, "fit_at_once", args, **kwargs)


def _call(cls: type, bound_to: Any, old: str, args: tuple[Any, ...], **kwargs: Any) -> Any:
    """Call the method behind an old name: of a class that itself overrides the old name, its parent's."""
    _warn(f"{cls.__name__}.{old}", _METHODS[old], 4)
    overriding = [base for base in cls.__mro__ if old in base.__dict__ and base is not OldHeadNames]
    return getattr(super(overriding[-1], bound_to) if overriding else bound_to, _METHODS[old])(*args, **kwargs)


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is {new} now: the old name goes with the next release (docs/add-a-head.md)",
        FutureWarning,
        stacklevel=stacklevel + 1,
    )
