"""Sentences of the page: its summary, notes, and meanings of columns."""

from collections.abc import Sequence

from avfuse.pipeline.report.page.rows import PageRows
from avfuse.pipeline.report.results import class_words, score_words
from avfuse.stages.fuse.evaluation.statistics import PairedTest, few_groups_warning, paired_test
from avfuse.stages.fuse.runs.summary import Row, correct_matrix, notes, selected_rows

SINGLE = ("audio", "video")

MEANINGS = {
    "head": "The trained head, with its swept settings.",
    "row": "A row of the paper's table.",
    "seeds": "Number of trainings, each from its own random numbers.",
    "clips": "Number of test clips.",
    "95 % interval": "Interval of the expected score, over new seeds and new groups of test clips.",
    "seed sd": "Standard deviation of the score over seeds, in percentage points.",
    "macro %": "Mean accuracy over classes: rare ones count as much as frequent ones.",
    "nll": "Mean negative log-likelihood of the true class, in nats; lower is better.",
    "top-1 %": "Share of test clips whose likeliest class is the true one.",
    "hit@1 %": "Share of test clips whose likeliest class is one of the true ones.",
    "top-5 %": "Share of test clips whose true class is among the five likeliest.",
    "mAP %": "Mean over classes of the average precision.",
    "F1 %": "Micro-averaged F1 over clips and classes.",
    "macro F1": "F1 averaged over classes, in per cent.",
    "subset %": "Share of clips for which exactly the true classes are predicted.",
    "lwlrap %": "Label-weighted label-ranking average precision.",
    "ECE": "Expected calibration error, in per cent: mean gap between predicted probability and observed frequency.",
    "parameters": "Trained parameters of the head, without backbones.",
    "GMACs": "10⁹ multiply-adds for one clip.",
    "backbone GMACs": "10⁹ multiply-adds of the backbones, for every frame, audio image and window of one clip.",
    "s/epoch": "Seconds for one pass over the training clips.",
    "s/seed": "Seconds to train one seed, including the choice of epochs and the refit.",
    "tuned": "Score with the settings that validation chose from one small grid.",
    "difference": "Difference of the tuned heads from those of the baseline row, in percentage points.",
    "p (Holm)": "P value of a paired t test over seeds and groups, adjusted for all tests of the table.",
    "chosen": "The settings that validation chose.",
    "flags": "U: untrained weights. S: other networks than the paper's. P: another data set or protocol.",
    "action %": "Share of test clips for which every target is right at once.",
    "all targets %": "Share of test clips for which every target is right at once.",
}


def summary(page: PageRows) -> list[str]:
    """The main result in sentences, with its uncertainty."""
    best = max(page.summaries, key=lambda row: row.score)
    result = (
        f"On {best.n_test} test clips of {class_words(page.targets)}, {best.label} reaches {100 * best.score:.1f} %"
        f"{score_words(page.targets)} (95 % interval {100 * best.low:.1f} to {100 * best.high:.1f})"
    )
    several = len(page.summaries) > 1
    more = (
        f", the best of {len(page.summaries)} rows; the best of several scores is biased upwards." if several else "."
    )
    few = few_groups_warning(page.runs[0].groups)
    return [
        result + more,
        *([few] if few is not None else []),
        *_gain(page, best),
        *_rivals(page, best),
        *_sweeps(page),
    ]


def table_notes(page: PageRows) -> list[str]:
    """Notes of all runs, without duplicates."""
    return list(dict.fromkeys(note for run in page.runs for note in notes(run)))


def best_single(page: PageRows) -> Row | None:
    """The best row of a single modality, if any."""
    return max((row for row in page.summaries if _is_single(page, row)), key=lambda row: row.score, default=None)


def best_fusion(page: PageRows) -> Row | None:
    """The best row of several modalities, if any."""
    joint = [row for row in page.summaries if not _is_single(page, row)]
    return max(joint, key=lambda row: row.score, default=None)


def _is_single(page: PageRows, row: Row) -> bool:
    return page.row(row.label).heads[0].head in SINGLE


def _gain(page: PageRows, best: Row) -> list[str]:
    single = best_single(page)
    if single is None or best.label == single.label:
        return []
    result = f"The best single modality, {single.label}, reaches {100 * single.score:.1f} %"
    test = _paired_test(page, best.label, single.label)
    if test is None:
        return [f"{result}; they have no seed in common, so the difference is not tested."]
    span = f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"
    open_end = "; these clips cannot tell the two apart" if test.low <= 0 <= test.high else ""
    return [f"{result}: fusion differs by {100 * test.difference:+.1f} points (95 % interval {span}){open_end}."]


def _rivals(page: PageRows, best: Row) -> list[str]:
    """Rows that an unadjusted paired test cannot tell from the best one."""
    near = []
    for row in page.summaries:
        if row.label != best.label:
            test = _paired_test(page, best.label, row.label)
            if test is None or test.low <= 0 <= test.high:
                near.append(row.label)
    if not near:
        return []
    return [
        f"These clips cannot tell {best.label} from {_and(near)}: the 95 % interval of "
        f"{'each' if len(near) > 1 else 'the'} difference contains zero (paired, over seeds and groups of test clips)."
    ]


def _paired_test(page: PageRows, name: str, other: str) -> PairedTest | None:
    """Paired test of two rows over their common seeds; None without any."""
    rows = page.row(name), page.row(other)
    common = set.intersection(*({head.seed for head in row.heads} for row in rows))
    if not common:
        return None
    sides = [correct_matrix(page.targets, [head for head in row.heads if head.seed in common]) for row in rows]
    return paired_test(sides[0], sides[1], page.runs[0].groups)


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _sweeps(page: PageRows) -> list[str]:
    return [
        f"Of {best.rows} rows of {best.head}, validation prefers {best.values}: {100 * best.validation:.1f} % there, "
        f"{100 * best.test:.1f} % on test."
        for run in page.runs
        for best in selected_rows(run)
    ]
