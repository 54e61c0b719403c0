"""Reports: figures, one self-contained page, files that are never half-written, a table for the terminal."""

from bilevel.extras import extra

with extra("report"):
    from bilevel.report.clean import clean_page, write_cleaning
    from bilevel.report.clean_figures import clean_figures
    from bilevel.report.compare import compare_page, write_comparison
    from bilevel.report.compare_figures import compare_figures
    from bilevel.report.fewshot import fewshot_table, write_fewshot
    from bilevel.report.files import check_folder, write_files
    from bilevel.report.strict import strict_json
    from bilevel.report.terminal import cleaning_table, comparison_table, text_table

__all__ = [
    "check_folder",
    "clean_figures",
    "clean_page",
    "cleaning_table",
    "compare_figures",
    "compare_page",
    "comparison_table",
    "fewshot_table",
    "strict_json",
    "text_table",
    "write_cleaning",
    "write_comparison",
    "write_fewshot",
    "write_files",
]
