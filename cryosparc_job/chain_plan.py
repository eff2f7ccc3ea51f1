"""The plan of the chain after picking: its steps, the rule for 2D classes, and the YAML file that describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryosegnet_ext.errors import CryoSegNetError

from .connection import OutputName

STEPS = ("extract", "classify", "select", "abinit")


@dataclass(frozen=True)
class ClassRule:
    """Which 2D classes to keep.

    Attributes
    ----------
    resolution
        Poorest resolution of a class to keep, angstrom.
    particles
        Fewest particles of a class to keep.
    fraction
        Of the classes that pass, keep the best ones until they contain this share of all particles.
    """

    resolution: float = 15.0
    particles: int = 100
    fraction: float = 1.0

    def choose(self, classes: Sequence[Mapping[str, Any]]) -> list[int]:
        """Numbers of the classes to keep, best resolution first.

        Parameters
        ----------
        classes
            From ``get_class_info``: ``class_idx``, ``res_A`` and ``num_particles_total`` of each class.

        Raises
        ------
        CryoSegNetError
            No class passes the rule.
        """
        rows = [(float(c["res_A"]), int(c["num_particles_total"]), int(c["class_idx"])) for c in classes]
        passing = sorted(row for row in rows if row[0] <= self.resolution and row[1] >= self.particles)
        if not passing:
            best = min(rows, default=None)
            seen = "there are no classes" if best is None else f"the best has {best[0]:.1f} A and {best[1]} particles"
            raise CryoSegNetError(
                f"No 2D class has {self.resolution:g} A or better and {self.particles} particles ({seen}): select "
                "by hand in CryoSPARC, or relax the rule."
            )
        wanted = self.fraction * sum(row[1] for row in rows)
        chosen: list[int] = []
        held = 0
        for _, count, number in passing:
            if chosen and held >= wanted:
                break
            chosen.append(number)
            held += count
        return chosen


@dataclass(frozen=True)
class ChainPlan:
    """A chain of jobs after picking.

    Attributes
    ----------
    project, workspace
        Identifiers, as P1 and W1.
    particles, micrographs
        Outputs of the picking job.
    lane
        Lane of the jobs that compute; ``lanes`` overrides it for single steps.
    box
        Side of the extracted boxes, pixels; by default 1.5 particle diameters.
    rule
        Which 2D classes to keep.
    params
        Step -> parameters of its job, under CryoSPARC's names.
    last
        Last step to run.
    hours
        Most time for one step.
    """

    project: str
    workspace: str
    particles: OutputName
    micrographs: OutputName
    lane: str | None = None
    lanes: Mapping[str, str] = field(default_factory=dict)
    box: int | None = None
    rule: ClassRule = ClassRule()
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    last: str = STEPS[-1]
    hours: float = 72.0

    @property
    def mark(self) -> str:
        """The text in the descriptions of the jobs by which the same plan finds its jobs again."""
        content = repr((self.project, self.workspace, self.particles, self.micrographs, self.box, self.rule))
        content += repr(sorted((step, sorted(values.items())) for step, values in self.params.items()))
        return f"chain {hashlib.sha256(content.encode()).hexdigest()[:12]}"


def read_plan(path: str | Path) -> dict[str, Any]:
    """Read a plan from a YAML file: lanes, parameters and the rule.

    .. code:: yaml

        lane: gpu
        box: 256
        rule: {resolution: 12, particles: 200, fraction: 0.8}
        classify: {class2D_K: 100}
        abinit: {lane: big, abinit_K: 3}

    Returns
    -------
    dict
        Arguments of `ChainPlan`.

    Raises
    ------
    CryoSegNetError
        The file is missing, is not YAML, or has an entry that a plan does not have.
    """
    try:
        import yaml
    except ImportError:
        raise CryoSegNetError("A plan in a file needs PyYAML: pip install pyyaml, or give options instead.") from None
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CryoSegNetError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f" (line {where.line + 1})"
        raise CryoSegNetError(f"{path} is not YAML{line}: see docs/cryosparc.md for an example.") from error
    if not isinstance(content, dict):
        raise CryoSegNetError(f"{path} is not a plan: see docs/cryosparc.md for an example.")
    unknown = sorted(str(name) for name in set(content) - {"lane", "box", "rule", "last", "hours", *STEPS})
    if unknown:
        raise CryoSegNetError(
            f"{path}: {unknown[0]} is not known: use lane, box, rule, last, hours, {', '.join(STEPS)}."
        )
    found: dict[str, Any] = {name: content[name] for name in ("lane", "box", "last", "hours") if name in content}
    try:
        found["rule"] = ClassRule(**(content.get("rule") or {}))
        found["params"] = {name: dict(content[name] or {}) for name in STEPS if name in content}
    except (TypeError, ValueError) as error:
        raise CryoSegNetError(
            f"{path}: a step must hold parameters by name, and rule must hold resolution, particles or fraction."
        ) from error
    found["lanes"] = {name: str(values.pop("lane")) for name, values in found["params"].items() if "lane" in values}
    if found.get("last", STEPS[-1]) not in STEPS:
        raise CryoSegNetError(f"{path}: last must be one of {', '.join(STEPS)} (got {found['last']}).")
    return found
