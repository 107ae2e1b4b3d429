"""Settings as a user types them become a recipe, or an error that names them."""

import pytest

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@pytest.mark.parametrize("text", ["1", "2"])
def test_a_number_among_choices_may_be_typed(text: str) -> None:
    negatives = TrainingOverrides(negatives=text).recipe("crossattn").negatives
    assert negatives == int(text)
    assert isinstance(negatives, int)


def test_other_numbers_and_words_are_not_choices() -> None:
    for text in ("3", "one"):
        with pytest.raises(UsageError, match=f"negatives={text}: input should be 1 or 2"):
            TrainingOverrides(negatives=text).recipe("crossattn")
    with pytest.raises(UsageError, match="schedule=linear: input should be 'constant' or 'cosine'"):
        TrainingOverrides(schedule="linear").recipe("crossattn")


def test_a_typed_choice_is_the_same_recipe() -> None:
    typed, given = (TrainingOverrides(negatives=value, schedule="cosine") for value in ("2", 2))
    assert typed.recipe("crossattn").model_dump_json() == given.recipe("crossattn").model_dump_json()
