"""One of many devices: FSDP2 and tensor parallelism of torch, run with shapes alone.

The process group is torch's own fake one: it has a size and sends nothing. So what is counted is
what ``fully_shard`` and ``parallelize_module`` do with this model, and no formula of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..training import Objective, inside_forward, make_optimizer, recomputable_layers
from ..training.account import Place, small_optimizer
from ..training.live_bytes import LiveBytes, local
from .splitting import split_head, split_layers
from .traffic import Traffic

__all__ = ["Devices", "fake_group"]

# The panel of dL/dlogits and its class sums of kernels/cross_entropy_gradients.py.
PANEL_TOKENS, PANEL_CLASSES = 2048, 4096


@contextmanager
def fake_group(devices: int, tensor: int) -> Iterator[Any]:
    """Set up a group of processes that are not there, ``tensor`` of which share every layer.

    Yields the mesh, of dimensions ``data`` and ``tensor``; None for one device. A process group
    that is there already is a ValueError.

    >>> with fake_group(8, 2) as mesh:
    ...     tuple(mesh.shape)
    (4, 2)
    """
    if devices == 1:
        yield None
        return
    if distributed.is_initialized():
        raise ValueError("a process group is set up already; expected a plan in one process alone")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        names = ("data", "tensor")
        yield init_device_mesh("cpu", (devices // tensor, tensor), mesh_dim_names=names)
    finally:
        distributed.destroy_process_group()


class Devices(Place):
    """Be the first of some devices.

    Args:
        mesh: from :func:`fake_group`.
        optimizer: name of a class of ``torch.optim``.
        narrow: gather weights and compute in bfloat16, reduce gradients in float32.
        gpu: count what GPUs take: the workspace of the Triton kernels, and optimisers that work
            on all parameters at once.

    Attributes:
        traffic: what a step sends; None on one device.
    """

    def __init__(self, mesh: Any, optimizer: str, narrow: bool, gpu: bool = True) -> None:
        self.mesh, self.optimizer, self.narrow, self.gpu = mesh, optimizer, narrow, gpu
        self.traffic: Traffic | None = None
        self.data: Any = None
        self.tensor: Any = None
        # FSDP and DTensor set themselves up, and remember what they found, in the first step.
        self.needs_warming = mesh is not None
        if mesh is not None:
            self.shown = None  # each of them sends anew
            self.data, self.tensor = mesh["data"], mesh["tensor"]
            groups = {self.data: "data", self.tensor: "tensor"}
            self.traffic = Traffic({g.get_group().group_name: name for g, name in groups.items()})

    def arrange(
        self, objective: Objective, optimizer: torch.optim.Optimizer
    ) -> torch.optim.Optimizer:
        """Shard the model over the mesh."""
        if self.mesh is None:
            return optimizer
        model = objective.model.model
        if self.tensor.size() > 1:
            split_layers(model, self.tensor)
            split_head(objective, self.tensor)
        for term in objective.terms.values():
            term.class_means.process_group = self.data.get_group()
        if self.data.size() > 1:
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

            policy = MixedPrecisionPolicy()
            if self.narrow:
                policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
            for layer in recomputable_layers(model):
                fully_shard(layer, mesh=self.data, mp_policy=policy)
            fully_shard(model, mesh=self.data, mp_policy=policy)
        return make_optimizer(model, self.optimizer)

    def forward(self, objective: Objective, function: Callable[[], Tensor]) -> Tensor:
        """Compute a loss where FSDP has gathered the head."""
        if self.mesh is None or self.data.size() == 1:
            return function()
        model = objective.model.model
        return inside_forward(model, model, function)

    def head_bytes(self, tokens: int, weight: Tensor) -> dict[str, int]:
        """Return what the kernels of a GPU take beside their results."""
        if not self.gpu:
            return super().head_bytes(tokens, weight)
        classes, width = weight.shape
        rows, columns = min(PANEL_TOKENS, tokens), min(PANEL_CLASSES, classes)
        panel = 4 * (rows * columns + columns * width)  # and the head's gradient of these classes
        wide = 4 * tokens * width if weight.dtype != torch.float32 else 0
        return {"forward": 200 * tokens, "backward": panel + wide + 40 * tokens}

    def temporaries(self, optimizer: torch.optim.Optimizer) -> int:
        """Return what torch's ``foreach`` optimisers take, the default on GPUs."""
        if not self.gpu:
            return super().temporaries(optimizer)
        groups = (group["params"] for group in optimizer.param_groups)
        sizes = [sum(local(p).nbytes for p in group) for group in groups]
        return int(max(sizes, default=0) * _foreach_share(optimizer))

    def watch(self, objective: Objective, live: LiveBytes) -> list[int]:
        """Mark where each layer's forward begins and where its backward has ended."""
        marks = Marks()
        self.marked = marks.marked
        for number, layer in enumerate(recomputable_layers(objective.model.model)):
            layer.register_forward_pre_hook(_Marker(number, live, marks))
        return marks

    def observe(self, name: str, args: tuple) -> None:
        """Take note of what is sent."""
        if self.traffic is not None:
            self.traffic.observe(name, args)


class Marks(list[int]):
    """Hold places of the timeline, and which layer and way each is of."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[tuple[int, str]] = []

    def clear(self) -> None:
        """Forget all of them."""
        super().clear()
        self.marked.clear()


class _Marker:
    """Mark the places of one layer in the timeline."""

    def __init__(self, number: int, live: LiveBytes, marks: Marks) -> None:
        self.number, self.live, self.marks = number, live, marks

    def __call__(self, module: nn.Module, args: tuple) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # computed again, in a backward pass
        self._mark("forward")
        hidden = args[0] if args else None
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(lambda grad: self._mark("backward"))

    def _mark(self, way: str) -> None:
        self.marks.append(len(self.live.timeline))
        self.marks.marked.append((self.number, way))


def _foreach_share(optimizer: torch.optim.Optimizer) -> float:
    """Measure what a ``foreach`` step takes at most, over the bytes of the parameters."""
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    settings |= {"lr": 1e-3} | ({"foreach": True} if "foreach" in settings else {})
    small = nn.Parameter(torch.ones(1024, dtype=torch.float32))
    small_one = small_optimizer(optimizer, settings, small)
    small_one.step()  # makes its state
    with LiveBytes() as live:
        small_one.step()
    return live.peak // small.nbytes
