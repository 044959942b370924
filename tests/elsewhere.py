"""A device that is not the CPU, for machines without one: device "meta", but with numbers.

Tensors `.to("meta")` keep their numbers on the CPU, behind a wrapper that says it is elsewhere. Every operation is
done there; one that mixes tensors of both places fails, as on a GPU. So what runs here has put every tensor where it
belongs."""
from contextlib import ExitStack

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_leaves

HERE, THERE = torch.device("cpu"), torch.device("meta")
aten = torch.ops.aten


class Far(torch.Tensor):
    "A tensor of the other device; `near` has its numbers"
    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(cls, near.shape, strides=near.stride(), dtype=near.dtype,
                                                   storage_offset=near.storage_offset(), device=THERE)
    def __init__(self, near): self.near = near
    def __repr__(self): return f"Far({self.near})"
    def tolist(self): return self.near.tolist()
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None): return run(function, args, kwargs or {})


def apart(function, args, kwargs):
    "Tensors with axes that are here, although others are there; indices and what is copied may travel"
    if function in (aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default): return []
    if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default): args = args[:1] + args[2:]
    return [t for t in tree_leaves((args, kwargs)) if torch.is_tensor(t) and not isinstance(t, Far) and t.ndim]


def run(function, args, kwargs):
    "On the CPU, and back into the wrappers"
    far = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Far)]
    wanted = kwargs.get("device")
    there = bool(far) if wanted is None else torch.device(wanted) == THERE
    if far and (mixed := apart(function, args, kwargs)):
        raise RuntimeError(f"{function}: Expected all tensors to be on the same device, found {len(far)} there and "
                           f"{[tuple(t.shape) for t in mixed]} here")
    if wanted is not None: kwargs = kwargs | dict(device=HERE)
    if kwargs.get("pin_memory"): kwargs = kwargs | dict(pin_memory=False)
    known = {id(t.near): t for t in far}
    out = function(*tree_map(near, args), **tree_map(near, kwargs))
    if function is aten.copy_.default: return args[0]
    if not there: return out
    return tree_map(lambda t: known.get(id(t)) if id(t) in known else Far(t) if torch.is_tensor(t) else t, out)


def near(x): return x.near if isinstance(x, Far) else x


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None): return run(function, args, kwargs or {})


class _Literals(TorchFunctionMode):
    "`torch.tensor(numbers, device=...)` is no operation: it is made here and sent"
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and str(kwargs.get("device")) == THERE.type:
            return function(*args, **kwargs | dict(device=HERE)).to(THERE)
        return function(*args, **kwargs)


class Elsewhere:
    "Inside, `device=\"meta\"` holds numbers"
    def __enter__(self):
        self.modes = ExitStack()
        for mode in (_Operations(), _Literals()): self.modes.enter_context(mode)
        return self
    def __exit__(self, *error): self.modes.__exit__(*error)
