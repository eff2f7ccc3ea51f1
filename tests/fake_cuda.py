"""A GPU that is not there: tensors that say they are on ``cuda``, refuse what a GPU refuses, and compute on the CPU.

An operation on tensors of both devices is an error, except for what PyTorch allows: numbers (no axes), indices, copies.
So is NumPy's look at a tensor that was not brought to the CPU. In a block that runs in bf16, matrix products and
convolutions get the types that they get on a GPU. Kernels, streams and memory are not tested by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
_aten = torch.ops.aten
_CROSSING = (_aten.copy_.default, _aten._to_copy.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class WrongDevice(Exception):
    """What a real GPU would answer with a RuntimeError."""


class There(torch.Tensor):
    """A tensor on the GPU that is not there; ``here`` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=CUDA,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """As of a real one, which brings its numbers to the CPU."""
        return self.here.tolist()

    def record_stream(self, stream: object) -> None:
        """Nothing is given back too early here."""
        self.here.recorded = True  # type: ignore[attr-defined]

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is _aten._fused_sdp_choice.default:
        return 0  # the one that is made of products
    if func in (_aten._pin_memory.default, _aten.is_pinned.default):
        return args[0] if func is _aten._pin_memory.default else False
    # what only marks a tensor as conjugated is not seen here
    func = _aten._conj_physical.default if func in (_aten.conj.default, _aten._conj.default) else func
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    some_there = any(isinstance(one, There) for one in given)
    device = kwargs.get("device")
    to_there = some_there if device is None else torch.device(device).type == "cuda"
    if func not in _CROSSING and some_there:
        watched = tree_flatten(args[0])[0] if func in _INDEXING else given
        strangers = [one for one in watched if isinstance(one, torch.Tensor) and not isinstance(one, There)]
        if any(one.ndim > 0 for one in strangers) or (func in _INDEXING and not isinstance(args[0], There)):
            raise WrongDevice(f"{func} got tensors of the CPU and of the GPU")
    if func is _aten.copy_.default:
        to_there = isinstance(args[0], There)
    wrappers = {id(one.here): one for one in given if isinstance(one, There)}
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs.pop("pin_memory", None)
    plain_args, plain_kwargs = tree_map(lambda one: one.here if isinstance(one, There) else one, (args, kwargs))
    if func is _aten._softmax.default and plain_args[2]:
        plain_args = (plain_args[0].float(), plain_args[1], False)  # which only a GPU does in one step
    result = func(*plain_args, **plain_kwargs)

    def back(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        if id(one) in wrappers:
            return wrappers[id(one)]
        return There(one) if to_there else one

    return tree_map(back, result)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Stream:
    """Streams have nothing to do."""

    def __init__(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, other: object) -> None: ...


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """A block in which ``cuda`` is there."""
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "a GPU that is not there",
        "_lazy_init": lambda: None,
        "current_stream": _Stream,
        "Stream": _Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (80 * 10**9, 80 * 10**9),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
    }
    # without a driver, what looks after the current device does nothing
    torch._C._ensureCUDADeviceGuardSet()
    # modules get new parameters when they move; new tensors are made on the CPU and moved
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with contextlib.ExitStack() as patches:
        patches.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        # a tensor that is made of another one in Python may not become one of inference
        patches.enter_context(mock.patch.object(torch, "inference_mode", lambda *_: torch.no_grad()))
        generator = torch.Generator
        patches.enter_context(mock.patch.object(torch, "Generator", lambda *_, **__: generator()))
        for name, answer in answers.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, answer))
        patches.enter_context(torch.backends.cudnn.flags(enabled=False))
        patches.enter_context(_Mode())
        yield
