"""The page of runs, or of a table: one HTML file that holds all it needs."""

from avfuse.pipeline.report.page.rows import merge
from avfuse.pipeline.report.page.run_page import WrittenPage, write_page
from avfuse.pipeline.report.page.table_page import write_table_page

__all__ = ["WrittenPage", "merge", "write_page", "write_table_page"]
