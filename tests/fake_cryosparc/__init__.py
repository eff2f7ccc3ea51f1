"""A fake CryoSPARC: one world (`world`), and servers for two protocols (here 5.0; 4.7 in `tests.fake_cryosparc4`).

The world consists of the models of cryosparc-tools 5.0. Where the client 4.7 comes first on the path, which has no
models, they are read from the 5.0 package behind it; nothing else of 5.0 is within reach of the client.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def _provide_models() -> None:
    name = "cryosparc.models"
    if importlib.util.find_spec("cryosparc") is None or importlib.util.find_spec(name) is not None:
        return
    for folder in sys.path:
        package = importlib.machinery.PathFinder.find_spec("cryosparc", [folder])
        if package is None or package.origin is None:
            continue
        models = Path(package.origin).parent / "models"
        if models.is_dir():
            spec = importlib.util.spec_from_file_location(
                name, models / "__init__.py", submodule_search_locations=[str(models)]
            )
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
            return
    raise ImportError("cryosparc-tools 5.0 must be installed, too: the fake server's world consists of its models")


_provide_models()
