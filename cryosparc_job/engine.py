"""Where the arguments have exposures picked: in this process, or on several devices in a process for each."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cryosegnet_ext.cli.options import picker_options
from cryosegnet_ext.cli.running_options import engine_from
from cryosegnet_ext.picking.options import split_devices

if TYPE_CHECKING:
    from cryosegnet_ext.runs.batch import MicrographPicker
    from cryosegnet_ext.runs.engines.base import Engine


@contextlib.contextmanager
def engine_of(args: argparse.Namespace) -> Iterator[MicrographPicker | Engine]:
    """The picker that the arguments ask for, or the engine of several devices; loaded, so that no error is left in it.

    Parameters
    ----------
    args
        With the options that `arguments.add_picker` adds.

    Raises
    ------
    UsageError
        Options do not go together, or name a device that is not here.
    CryoSegNetError
        The weights cannot be loaded.
    """
    options = picker_options(args)
    devices = split_devices(options.device)
    if len(devices) > 1 and any(name.startswith("cuda") for name in devices):
        from cryosegnet_ext.picking.picker import choose_device

        # A process tells of its device when it has come to it, which may be after the first picks of another one.
        for name in devices:
            choose_device(name)
    with engine_from(options) as picker:
        from cryosegnet_ext.runs.engines.base import Engine

        if isinstance(picker, Engine):
            # Waits until a process has loaded the networks.
            _ = picker.settings
        yield picker
