"""Several micrographs in flight: each once, the same picks, whatever their order; failures and stops."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryosegnet_ext.errors import TooLittleMemory
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs.engines import threads
from cryosegnet_ext.runs.engines.base import EngineError
from cryosegnet_ext.runs.engines.serial import SerialEngine
from cryosegnet_ext.runs.engines.threads import ThreadedEngine, engine_for
from cryosegnet_ext.runs.pick_task import PickTask
from tests.stub_picker import StubPicker
from tests.waiting import FOREVER


def write(folder, count):
    import mrcfile

    rng = np.random.default_rng(0)
    for i in range(count):
        with mrcfile.new(folder / f"m{i:02}.mrc") as mrc:
            mrc.set_data(rng.normal(100, 10, (64, 72)).astype(np.float32))
            mrc.voxel_size = 1.5
    return expand_inputs([str(folder)])


class Slow(StubPicker):
    """Takes its time, later micrographs less; counts how many are picked at once."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def pick(self, micrograph, diameter=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.15 if "0." in micrograph.name else 0.05)
        try:
            return super().pick(micrograph, diameter)
        finally:
            with self.lock:
                self.now -= 1


def outcomes_of(engine, inputs):
    stopping = SimpleNamespace(check=lambda: None, interrupts=contextlib.nullcontext)
    todo = [PickTask(one, one.path.stem, diameter=Diameter(30.0, "angstrom")) for one in inputs]
    found = []
    with engine:
        while todo or len(found) < len(inputs):
            while todo and engine.room > 0:
                engine.submit(todo.pop(0))
            found += engine.wait(stopping, 1.0)
    return found


def test_each_micrograph_once_and_several_at_a_time(tmp_path):
    inputs = write(tmp_path, 9)
    picker = Slow()
    found = outcomes_of(ThreadedEngine(picker, 3), inputs)
    assert sorted(one.record.stem for one in found) == [f"m{i:02}" for i in range(9)]
    assert all(one.record.done for one in found)
    assert picker.most == 3
    alone = {one.record.stem: one for one in outcomes_of(SerialEngine(StubPicker()), inputs)}
    for one in found:
        assert np.array_equal(one.picks.x, alone[one.record.stem].picks.x)


class Cramped(Slow):
    """Memory suffices for one micrograph at a time; for m02 never."""

    def pick(self, micrograph, diameter=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            others = self.now > 1
        try:
            time.sleep(0.05)
            if others or "m02" in micrograph.name:
                raise TooLittleMemory("The U-Net ran out of memory on cuda even with the smallest pieces: close it.")
            return StubPicker.pick(self, micrograph, diameter)
        finally:
            with self.lock:
                self.now -= 1


def test_what_does_not_fit_beside_others_is_picked_alone(tmp_path):
    inputs = write(tmp_path, 9)
    picker = Cramped()
    found = {one.record.stem: one for one in outcomes_of(ThreadedEngine(picker, 3), inputs)}
    assert sorted(stem for stem, one in found.items() if not one.record.done) == ["m02"]
    assert "ran out of memory" in found["m02"].record.reason
    assert picker.most == 3
    alone = {one.record.stem: one for one in outcomes_of(SerialEngine(StubPicker()), inputs)}
    assert all(np.array_equal(found[stem].picks.x, alone[stem].picks.x) for stem in found if stem != "m02")


def test_a_lost_gpu_ends_the_run_and_fails_no_micrograph(tmp_path, monkeypatch):
    """After an illegal memory access every later call fails; the next run goes on with these micrographs."""
    lost = threading.Event()

    def synchronize(device):
        if lost.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    class Losing(StubPicker):
        device = torch.device("cuda:0")

        def pick(self, micrograph, diameter=None):
            if "m02" in micrograph.name:
                lost.set()
            if lost.is_set():
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if "m01" in micrograph.name:
                raise RuntimeError("a fault of this micrograph")
            return super().pick(micrograph, diameter)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(threads, "_own_stream", lambda device: contextlib.nullcontext())
    found, inputs = [], write(tmp_path, 5)
    with ThreadedEngine(Losing(), 1) as engine:
        for one in inputs:
            engine.submit(PickTask(one, one.path.stem, diameter=Diameter(30.0, "angstrom")))
        with pytest.raises(EngineError, match=r"^cuda:0 no longer answers \(CUDA error: an illegal memory access"):
            while True:
                found += engine.wait(SimpleNamespace(check=lambda: None), 1.0)
    assert [(one.record.stem, one.record.done) for one in found] == [("m00", True), ("m01", False)]


def test_a_bad_file_fails_alone(tmp_path):
    inputs = write(tmp_path, 4)
    inputs[2].path.write_bytes(b"no micrograph")
    found = {one.record.stem: one.record for one in outcomes_of(ThreadedEngine(Slow(), 2), inputs)}
    assert [found[f"m0{i}"].done for i in range(4)] == [True, True, False, True]
    assert found["m02"].reason


def test_a_stop_is_heard_while_waiting(tmp_path):
    class Stopped(Exception):
        pass

    def check():
        raise Stopped

    engine = ThreadedEngine(Slow(), 2)
    engine.submit(PickTask(write(tmp_path, 1)[0], "m00"))
    with pytest.raises(Stopped), engine:
        engine.wait(SimpleNamespace(check=check), FOREVER)
    assert all(not thread.is_alive() for thread in engine._threads)


def test_a_gpu_gets_threads():
    assert isinstance(engine_for(StubPicker()), SerialEngine)
    assert isinstance(engine_for(SimpleNamespace(device=torch.device("cuda:1"))), ThreadedEngine)
    assert isinstance(engine_for(Slow()), SerialEngine)
