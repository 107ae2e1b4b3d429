"""Results for people: printed tables, CSV, plots, and one self-contained page."""

from avfuse.pipeline.report.results import print_table
from avfuse.pipeline.report.write import write_results

__all__ = ["print_table", "write_results"]
