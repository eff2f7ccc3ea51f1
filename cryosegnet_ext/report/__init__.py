"""``report.html``: one file that shows the picks of a run, with sliders for threshold and size."""
