"""What the page says in words."""

from collections.abc import Sequence

from avfuse.pipeline.report.page.rows import PageRows
from avfuse.pipeline.report.results import class_words, score_words
from avfuse.stages.fuse.evaluation.statistics import PairedTest, few_groups_warning, paired_test
from avfuse.stages.fuse.runs.summary import Row, correct_matrix, notes, selected_rows

SINGLE = ("audio", "video")

MEANINGS = {
    "head": "What is trained: a head, with the settings that were swept.",
    "row": "A row of the paper's table.",
    "seeds": "How many times the head was trained, from different random numbers.",
    "clips": "Test clips that it was scored on.",
    "95 % interval": "Of the expected score, over new seeds and new groups of test clips.",
    "seed sd": "Standard deviation of the score between seeds, in percentage points.",
    "macro %": "Accuracy averaged over classes, so that rare ones count as much as frequent ones.",
    "nll": "Mean negative log-likelihood of the true class, in nats. Less is better.",
    "top-1 %": "Share of test clips of which the likeliest class is the true one.",
    "hit@1 %": "Share of test clips of which the likeliest class is one of the true ones.",
    "top-5 %": "Share of test clips of which the truth is among the five likeliest.",
    "mAP %": "Mean over classes of the average precision.",
    "F1 %": "Micro-averaged F1 over clips and classes.",
    "macro F1": "F1 averaged over classes, in per cent.",
    "subset %": "Share of clips of which exactly the true classes are predicted.",
    "lwlrap %": "Label-weighted label-ranking average precision.",
    "ECE": "Expected calibration error, in per cent: how far probabilities are from the shares that come true.",
    "parameters": "Trained numbers of the head, without backbones.",
    "GMACs": "10⁹ multiply-adds for one clip.",
    "backbone GMACs": "10⁹ multiply-adds of the backbones, for every frame, audio image and window of one clip.",
    "s/epoch": "Seconds for one pass over the training clips.",
    "s/seed": "Seconds to train one seed, with the choice of epochs and the refit.",
    "tuned": "The score with the settings that validation chose from one small grid.",
    "difference": "Of the tuned heads, from the row that they are compared with, in percentage points.",
    "p (Holm)": "Of no difference, by a paired t test over seeds and groups, adjusted for all tests of the table.",
    "chosen": "The settings that validation chose.",
    "flags": "U: untrained weights. S: other networks than the paper's. P: another data set or protocol.",
    "action %": "Share of test clips of which every target is right at once.",
    "all targets %": "Share of test clips of which every target is right at once.",
}


def summary(page: PageRows) -> list[str]:
    """The main result in words, without more certainty than the intervals allow."""
    best = max(page.summaries, key=lambda row: row.score)
    said = (
        f"On {best.n_test} test clips of {class_words(page.targets)}, {best.label} reaches {100 * best.score:.1f} %"
        f"{score_words(page.targets)} (95 % interval {100 * best.low:.1f} to {100 * best.high:.1f})"
    )
    several = len(page.summaries) > 1
    more = (
        f", the most of {len(page.summaries)} rows; the highest of several is always a little flattered."
        if several
        else "."
    )
    few = few_groups_warning(page.runs[0].groups)
    return [
        said + more,
        *([few] if few is not None else []),
        *_gain(page, best),
        *_rivals(page, best),
        *_sweeps(page),
    ]


def table_notes(page: PageRows) -> list[str]:
    """Of all runs, each once."""
    return list(dict.fromkeys(note for run in page.runs for note in notes(run)))


def best_single(page: PageRows) -> Row | None:
    """The better of the rows of one modality."""
    return max((row for row in page.summaries if _is_single(page, row)), key=lambda row: row.score, default=None)


def best_fusion(page: PageRows) -> Row | None:
    """The best row of several modalities."""
    joint = [row for row in page.summaries if not _is_single(page, row)]
    return max(joint, key=lambda row: row.score, default=None)


def _is_single(page: PageRows, row: Row) -> bool:
    return page.row(row.label).heads[0].head in SINGLE


def _gain(page: PageRows, best: Row) -> list[str]:
    alone = best_single(page)
    if alone is None or best.label == alone.label:
        return []
    said = f"The best single modality, {alone.label}, reaches {100 * alone.score:.1f} %"
    test = _compared(page, best.label, alone.label)
    if test is None:
        return [f"{said}; they have no seed in common, so the difference is not tested."]
    span = f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"
    open_end = "; these clips cannot tell the two apart" if test.low <= 0 <= test.high else ""
    return [f"{said}: fusion differs by {100 * test.difference:+.1f} points (95 % interval {span}){open_end}."]


def _rivals(page: PageRows, best: Row) -> list[str]:
    """Rows that a paired test, unadjusted, cannot tell from the best one."""
    near = []
    for row in page.summaries:
        if row.label != best.label:
            test = _compared(page, best.label, row.label)
            if test is None or test.low <= 0 <= test.high:
                near.append(row.label)
    if not near:
        return []
    return [
        f"These clips cannot tell {best.label} from {_and(near)}: the 95 % interval of "
        f"{'each' if len(near) > 1 else 'the'} difference holds zero (paired, over seeds and groups of test clips)."
    ]


def _compared(page: PageRows, name: str, other: str) -> PairedTest | None:
    """Of the seeds that both have; None without any."""
    one, two = page.row(name), page.row(other)
    common = sorted({head.seed for head in one.heads} & {head.seed for head in two.heads})
    if not common:
        return None
    sides = [correct_matrix(page.targets, [head for head in row.heads if head.seed in common]) for row in (one, two)]
    return paired_test(sides[0], sides[1], page.runs[0].groups)


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _sweeps(page: PageRows) -> list[str]:
    return [
        f"Of {each.rows} rows of {each.head}, validation prefers {each.values}: {100 * each.validation:.1f} % there, "
        f"{100 * each.test:.1f} % on test."
        for run in page.runs
        for each in selected_rows(run)
    ]
