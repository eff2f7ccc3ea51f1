"""``cryosegnet view``: the report served to a browser, at full resolution, with picks that can be edited."""
