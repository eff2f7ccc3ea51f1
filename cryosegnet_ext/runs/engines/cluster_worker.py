"""What a worker of a cluster does: it makes the picker once, describes it, estimates, and picks.

The engine sends these functions by name, so that a worker with another version is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from ...errors import CryoSegNetError, memory_explained
from ...files.inputs import Input
from ..diameter import Estimate, estimate
from ..pick_task import MicrographPicker, PickOutcome, PickTask, pick_task

#: Makes the picker of a device on a worker. It is pickled, so it must be a function of a module, or a partial of one.
MakePicker = Callable[[str], MicrographPicker]

_LOADING = threading.Lock()
_PICKING = threading.Lock()
_PICKERS: dict[str, MicrographPicker] = {}


def _picker(run: str, make: MakePicker, device: str) -> MicrographPicker:
    """The picker of a run in this process; it replaces that of an earlier run."""
    with _LOADING:
        if run not in _PICKERS:
            _PICKERS.clear()
            with memory_explained():
                _PICKERS[run] = make(device)
        return _PICKERS[run]


def describe(run: str, make: MakePicker, device: str) -> tuple[dict[str, object], bool]:
    """The picker's settings, and whether it needs a diameter."""
    picker = _picker(run, make, device)
    return dict(picker.settings), picker.needs_diameter


def estimate_diameter(
    run: str, make: MakePicker, device: str, inputs: Sequence[Input], pixel_size: float | None
) -> Estimate:
    """Estimate the dataset's diameter; how far it is becomes an event whose topic is `topic_of` the run."""
    from distributed import get_worker

    picker, worker = _picker(run, make, device), get_worker()

    def looked(number: int, of: int) -> None:
        worker.log_event(topic_of(run), (number, of))

    with _PICKING:
        return estimate(picker, inputs, pixel_size, looked=looked)


def topic_of(run: str) -> str:
    """The topic of the events of a run's estimate."""
    return f"cryosegnet-estimate-{run}"


def pick(run: str, make: MakePicker, device: str, expected: Mapping[str, object], task: PickTask) -> PickOutcome:
    """Pick one micrograph; of the threads of a worker only one picks at a time, the others read."""
    picker = _picker(run, make, device)
    differing = sorted(name for name, value in picker.settings.items() if expected.get(name) != value)
    if differing:
        raise CryoSegNetError(
            f"a worker has other settings than this run ({', '.join(differing)}); install the same version and weights "
            "on every node"
        )
    got = task.read()
    with _PICKING:
        return pick_task(picker, task, got)
