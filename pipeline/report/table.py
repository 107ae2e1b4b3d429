"""The results table as text."""

from stages.fuse.experiment import Run
from stages.fuse.table import Row, notes, summarise

HEADINGS = ("head", "seeds", "clips", "top-1 %", "95 % interval", "seed sd", "macro %", "nll", "parameters", "s/seed")


def cells(row: Row) -> tuple[str, ...]:
    """A row as strings, in the order of HEADINGS."""
    return (
        row.head,
        str(row.seeds),
        str(row.n_test),
        f"{100 * row.top1:.1f}",
        f"{100 * row.low:.1f} - {100 * row.high:.1f}",
        f"{100 * row.seed_spread:.1f}" if row.seeds > 1 else "-",
        f"{100 * row.macro:.1f}",
        f"{row.nll:.2f}",
        f"{row.parameters:,}",
        f"{row.seconds:.1f}",
    )


def print_table(run: Run) -> str:
    """The table with its notes, ready to print."""
    rows = [HEADINGS, *(cells(row) for row in summarise(run))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    clips = run.described["clips"]
    title = (
        f"{run.described['dataset']}: {clips['train']} train, {clips['validation']} validation, {clips['test']} test "
        f"clips, {len(run.classes)} classes (chance {100 / len(run.classes):.1f} %)"
    )
    left_out = [f"Left out, with no usable feature: {', '.join(clips['excluded'])}."] if clips["excluded"] else []
    return "\n".join([title, "", *lines, "", *left_out, *notes(run)])
