"""A training run as one HTML page that needs nothing else (`ddgan report`): metrics read and thinned, plots, the page."""

from ddgan_fast.report.page import page_of, write_report

__all__ = ["page_of", "write_report"]
