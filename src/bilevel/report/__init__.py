"""Reports of a run: page, figures, data files, and tables for the terminal."""

from bilevel.extras import extra

with extra("report"):
    from bilevel.report.check import check_page, write_check
    from bilevel.report.clean import clean_page, cleaning_fragment, cleaning_table, write_cleaning
    from bilevel.report.compare import compare_page, comparison_table, write_comparison
    from bilevel.report.fewshot import fewshot_table, write_fewshot
    from bilevel.report.files import check_folder, write_files
    from bilevel.report.strict import strict_json
    from bilevel.text import text_table

__all__ = [
    "check_folder",
    "check_page",
    "clean_page",
    "cleaning_fragment",
    "cleaning_table",
    "compare_page",
    "comparison_table",
    "fewshot_table",
    "strict_json",
    "text_table",
    "write_check",
    "write_cleaning",
    "write_comparison",
    "write_fewshot",
    "write_files",
]
