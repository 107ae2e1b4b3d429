"""The paths and names that modules had before they moved, for one release and for files of a user's own.

A head, a backbone or a data set that somebody wrote against the old tree may import `avfuse.stages.fuse.heads.inputs`.
`find_moved_modules` lets such an import give the very module of the new path, with a warning that names it.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "avfuse.features.archives.cursor": "avfuse.features.archives.file_object",
    "avfuse.features.archives.headers": "avfuse.features.archives.tar_headers",
    "avfuse.features.archives.keeping": "avfuse.features.archives.index_store",
    "avfuse.features.audio_images.content": "avfuse.features.audio_images.spectral",
    "avfuse.features.backbones.any_timm": "avfuse.features.backbones.adapters.timm",
    "avfuse.features.backbones.any_torchvision": "avfuse.features.backbones.adapters.torchvision",
    "avfuse.features.backbones.any_transformers": "avfuse.features.backbones.adapters.transformers",
    "avfuse.features.backbones.ast": "avfuse.features.backbones.models.ast",
    "avfuse.features.backbones.bninception": "avfuse.features.backbones.models.bninception",
    "avfuse.features.backbones.efficientnet_lite": "avfuse.features.backbones.models.efficientnet_lite",
    "avfuse.features.backbones.from_transformers": "avfuse.features.backbones.adapters.transformers_checkpoints",
    "avfuse.features.backbones.lite": "avfuse.features.backbones.models.lite",
    "avfuse.features.backbones.picture_networks": "avfuse.features.backbones.models.image_models",
    "avfuse.features.backbones.probing": "avfuse.features.backbones.adapters.output_shapes",
    "avfuse.features.backbones.timesformer": "avfuse.features.backbones.models.timesformer",
    "avfuse.features.backbones.tsn": "avfuse.features.backbones.models.tsn",
    "avfuse.features.backbones.video_networks": "avfuse.features.backbones.models.video_models",
    "avfuse.features.cache.asked": "avfuse.features.cache.clip_query",
    "avfuse.features.cache.exporting": "avfuse.features.cache.maintenance.export",
    "avfuse.features.cache.importing": "avfuse.features.cache.maintenance.imports",
    "avfuse.features.cache.listing": "avfuse.features.cache.maintenance.summary",
    "avfuse.features.cache.loading": "avfuse.features.cache.load",
    "avfuse.features.cache.reading": "avfuse.features.cache.shard_reader",
    "avfuse.features.cache.removal": "avfuse.features.cache.maintenance.remove",
    "avfuse.features.cache.rewriting": "avfuse.features.cache.maintenance.rewrite",
    "avfuse.features.cache.shard": "avfuse.features.cache.shard_writer",
    "avfuse.features.cache.verify": "avfuse.features.cache.maintenance.verify_repair",
    "avfuse.features.edges": "avfuse.features.digest",
    "avfuse.features.extracted_sound": "avfuse.features.inputs.hf_audio",
    "avfuse.features.filter_bank": "avfuse.features.inputs.filter_bank",
    "avfuse.features.fitting": "avfuse.features.inputs.resize",
    "avfuse.features.media.deep": "avfuse.features.media.seeking",
    "avfuse.features.media.pictures": "avfuse.features.media.video_decoding",
    "avfuse.features.media.sound": "avfuse.features.media.audio_decoding",
    "avfuse.features.media.source": "avfuse.features.media.container",
    "avfuse.features.memory": "avfuse.features.malloc",
    "avfuse.features.names": "avfuse.features.name_rules",
    "avfuse.features.own_files": "avfuse.features.plugins",
    "avfuse.features.remaking": "avfuse.features.reproducibility",
    "avfuse.features.requests": "avfuse.features.feature_names",
    "avfuse.features.revisions": "avfuse.features.compatibility",
    "avfuse.features.waveforms": "avfuse.features.audio_images.waveform_checks",
    "avfuse.manifests.builders": "avfuse.manifests.registry",
    "avfuse.manifests.files": "avfuse.manifests.media_tree",
    "avfuse.manifests.listing": "avfuse.manifests.description",
    "avfuse.manifests.parts": "avfuse.manifests.subsets",
    "avfuse.manifests.probing": "avfuse.manifests.media_probes",
    "avfuse.pipeline.cluster.engine": "avfuse.pipeline.cluster.dask_engine",
    "avfuse.pipeline.experiments.processes": "avfuse.pipeline.experiments.parallel",
    "avfuse.pipeline.experiments.running": "avfuse.pipeline.experiments.run_table",
    "avfuse.pipeline.experiments.show": "avfuse.pipeline.experiments.render",
    "avfuse.pipeline.report.clip_pictures": "avfuse.pipeline.report.explain.network_inputs",
    "avfuse.pipeline.report.contact_sheet": "avfuse.pipeline.report.figures.contact_sheet",
    "avfuse.pipeline.report.examples": "avfuse.pipeline.report.disagreement",
    "avfuse.pipeline.report.explained": "avfuse.pipeline.report.explain.run_clips",
    "avfuse.pipeline.report.explained_predictions": "avfuse.pipeline.report.explain.media_files",
    "avfuse.pipeline.report.explanations": "avfuse.pipeline.report.explain.figure",
    "avfuse.pipeline.report.frames": "avfuse.pipeline.report.text_tables",
    "avfuse.pipeline.report.listing": "avfuse.pipeline.report.results",
    "avfuse.pipeline.report.page.attended": "avfuse.pipeline.report.page.heatmaps",
    "avfuse.pipeline.report.page.shown": "avfuse.pipeline.report.page.rows",
    "avfuse.pipeline.report.page.words": "avfuse.pipeline.report.page.summary",
    "avfuse.pipeline.report.plots": "avfuse.pipeline.report.figures.plots",
    "avfuse.pipeline.report.predicted": "avfuse.pipeline.report.predictions",
    "avfuse.pipeline.report.segments": "avfuse.pipeline.report.figures.segments",
    "avfuse.pipeline.report.table": "avfuse.pipeline.report.results",
    "avfuse.pipeline.report.tables": "avfuse.pipeline.report.run_reference",
    "avfuse.pipeline.report.understanding": "avfuse.pipeline.report.analyses",
    "avfuse.stages.extract.drawn": "avfuse.stages.extract.cached_images",
    "avfuse.stages.extract.remote": "avfuse.stages.extract.dask_worker",
    "avfuse.stages.extract.slots": "avfuse.stages.extract.shared_memory",
    "avfuse.stages.fuse.attention": "avfuse.stages.fuse.analysis.attention_rollout",
    "avfuse.stages.fuse.changes": "avfuse.stages.fuse.analysis.perturbations",
    "avfuse.stages.fuse.checkpoint": "avfuse.stages.fuse.training.checkpoint",
    "avfuse.stages.fuse.companies": "avfuse.stages.fuse.training.vectorized",
    "avfuse.stages.fuse.contribution": "avfuse.stages.fuse.analysis.shapley",
    "avfuse.stages.fuse.contribution_run": "avfuse.stages.fuse.analysis.shapley_runs",
    "avfuse.stages.fuse.cost": "avfuse.stages.fuse.training.cost",
    "avfuse.stages.fuse.draws": "avfuse.stages.fuse.heads.dropout",
    "avfuse.stages.fuse.embedding": "avfuse.stages.fuse.analysis.embeddings",
    "avfuse.stages.fuse.experiment": "avfuse.stages.fuse.runs.experiment",
    "avfuse.stages.fuse.explaining": "avfuse.stages.fuse.analysis.attribution",
    "avfuse.stages.fuse.explaining_clips": "avfuse.stages.fuse.analysis.attribution",
    "avfuse.stages.fuse.fitting": "avfuse.stages.fuse.training.head_trainer",
    "avfuse.stages.fuse.gains": "avfuse.stages.fuse.analysis.class_gains",
    "avfuse.stages.fuse.heads.inputs": "avfuse.stages.fuse.heads.modality_input",
    "avfuse.stages.fuse.hidden": "avfuse.stages.fuse.losses.masked_reconstruction",
    "avfuse.stages.fuse.losses.binary_cross_entropy": "avfuse.stages.fuse.losses.classification",
    "avfuse.stages.fuse.losses.contrast": "avfuse.stages.fuse.losses.contrastive",
    "avfuse.stages.fuse.losses.cross_entropy": "avfuse.stages.fuse.losses.classification",
    "avfuse.stages.fuse.losses.of_targets": "avfuse.stages.fuse.losses.classification",
    "avfuse.stages.fuse.losses.penalty": "avfuse.stages.fuse.losses.l1",
    "avfuse.stages.fuse.masking": "avfuse.stages.fuse.data.audio_masking",
    "avfuse.stages.fuse.metrics": "avfuse.stages.fuse.evaluation.metrics",
    "avfuse.stages.fuse.modality": "avfuse.stages.fuse.data.modality",
    "avfuse.stages.fuse.objective": "avfuse.stages.fuse.training.auxiliary_losses",
    "avfuse.stages.fuse.places": "avfuse.stages.fuse.data.token_layout",
    "avfuse.stages.fuse.plan": "avfuse.stages.fuse.training.job",
    "avfuse.stages.fuse.predicting": "avfuse.stages.fuse.runs.predict",
    "avfuse.stages.fuse.predictions": "avfuse.stages.fuse.runs.predict",
    "avfuse.stages.fuse.prepared": "avfuse.stages.fuse.training.inputs",
    "avfuse.stages.fuse.recipe": "avfuse.stages.fuse.config",
    "avfuse.stages.fuse.reloading": "avfuse.stages.fuse.runs.restore",
    "avfuse.stages.fuse.retrieval": "avfuse.stages.fuse.analysis.retrieval",
    "avfuse.stages.fuse.robustness": "avfuse.stages.fuse.analysis.robustness",
    "avfuse.stages.fuse.sampling": "avfuse.stages.fuse.training.balanced_batches",
    "avfuse.stages.fuse.saved": "avfuse.stages.fuse.runs.restore",
    "avfuse.stages.fuse.statistics": "avfuse.stages.fuse.evaluation.statistics",
    "avfuse.stages.fuse.subsets": "avfuse.stages.fuse.evaluation.subsets",
    "avfuse.stages.fuse.sweeps": "avfuse.stages.fuse.runs.summary",
    "avfuse.stages.fuse.table": "avfuse.stages.fuse.runs.summary",
    "avfuse.stages.fuse.targets": "avfuse.stages.fuse.data.targets",
    "avfuse.stages.fuse.together": "avfuse.stages.fuse.training.vectorized",
    "avfuse.stages.fuse.trainer": "avfuse.stages.fuse.training.trainer",
}


def warn_moved(old: str, new: str) -> None:
    """Warn the code that imports `old`, in whose place `new` is to be imported."""
    warnings.warn(f"'{old}' is '{new}' now: the old name goes with the next release", FutureWarning, stacklevel=3)


def renamed(module: str, names: dict[str, str]) -> Any:
    """A `__getattr__` for a module or package: its old names, with a warning.

    Args:
        module: the dotted path of the module, its `__name__`.
        names: for each old name the new one, in the same module, or as MODULE.NAME in another of avfuse's.
    """

    def old_name(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path, _, attribute = names[name].rpartition(".")
        path = path or module
        warn_moved(f"{module}.{name}", f"{path}.{attribute}")
        return getattr(importlib.import_module(path), attribute)

    return old_name


def find_moved_modules() -> None:
    """Make imports of old paths give the modules of the new ones, from now on."""
    if not any(isinstance(finder, _MovedModuleFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModuleFinder())


class _MovedModuleFinder(MetaPathFinder):
    """Asked after all others, and so only for what is no longer there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _MovedModuleLoader()) if fullname in MOVED else None


class _MovedModuleLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"'{spec.name}' is '{new}' now: the old path goes with the next release", FutureWarning, stacklevel=2
        )
        module = importlib.import_module(new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the old path's here
