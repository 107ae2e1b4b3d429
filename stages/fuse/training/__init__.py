"""Training of heads: jobs, epochs of one head or of many in one pass, the choice of the epoch and the refit."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed

if not TYPE_CHECKING:  # `avfuse.stages.fuse.training` was a module.
    __getattr__ = renamed(
        __name__,
        {
            "Training": "avfuse.stages.fuse.training.overrides.TrainingOverrides",
            "train_head": "avfuse.stages.fuse.training.trainer.train_head",
            "knows": "avfuse.stages.fuse.training.overrides.accepts_setting",
            "PER_HEAD": "avfuse.stages.fuse.training.overrides.PER_HEAD",
        },
    )
