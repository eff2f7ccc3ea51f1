"""``report.html``: one file that shows what a run has picked, with sliders for threshold and size."""

from .page import write_report

__all__ = ["write_report"]
