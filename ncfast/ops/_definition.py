"""Defines an op once: what its outputs are, what it rejects; the rest follows from its schema.

From the schema, ``outputs`` and ``rejects`` come registration under ``torch.ops.ncfast``, the fake
kernel, the allocation for compiled kernels, the kernels of every backend and autograd. A schema's
names carry meaning:

- ``NAME_backward`` is the backward op of ``NAME``. Its arguments are what autograd saves, inputs
  and outputs of ``NAME`` by their names, and the incoming gradients: ``grad`` for the first output
  or ``grad_OUTPUT``. An output of ``NAME`` that has no such argument is not differentiable.
- it returns ``grad_INPUT`` for every differentiable input; ``needs_INPUT`` says whether it is asked
  for. A gradient nobody asked for is an empty tensor, so that the schema's arity never changes.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch, native
from ..dispatch import Kernel
from ._gpu_kernels import register_gpu_kernels

NAMESPACE = "ncfast"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

REFERENCE_DEVICES = ("cpu", "cuda", "xpu", "mps")

# An op's arguments by the names of its schema: ``a.x``.
Arguments = Any


class Output(NamedTuple):
    """Describe one output: its shape and dtype, whether it starts as zeros and is asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    zeros: bool = False
    asked: bool = True


@dataclass(frozen=True)
class Definition:
    """Hold what an op's author says about it; see :func:`define`."""

    name: str
    arguments: tuple[str, ...]
    returns: tuple[str, ...]
    bind: Callable[..., Arguments]
    outputs: Callable[[Arguments], Sequence[Output]]
    rejects: Callable[[Arguments], str]
    kernel_arguments: Callable[[Arguments], Sequence[Any]]
    kernel_outputs: Callable[[Arguments, list[Tensor | None]], Sequence[Tensor | None]]

    def device(self, a: Arguments) -> torch.device:
        """Return the device of the first tensor."""
        return next(value.device for value in a if isinstance(value, Tensor))

    def fake(self, *args: Any) -> Any:
        """Return outputs without memory or values."""
        a = self.bind(*args)
        device = self.device(a)
        return self.returned(
            [torch.empty(o.shape, dtype=o.dtype, device=device) for o in self.outputs(a)]
        )

    def compiled(self, *args: Any) -> Any:
        """Allocate the outputs and run the compiled kernel of the op's name."""
        a = self.bind(*args)
        described, device = self.outputs(a), self.device(a)
        results = [native.allocate(o.shape, o.dtype, device) for o in described]
        asked: list[Tensor | None] = list(results)
        for i, output in enumerate(described):
            if output.zeros:
                results[i].zero_()
            if not output.asked:
                asked[i] = None
        native.call(self.name, *self.kernel_arguments(a), *self.kernel_outputs(a, asked))
        return self.returned(results)

    def reason(self, *args: Any) -> str:
        """Return why no compiled kernel serves a call, or an empty string."""
        return self.rejects(self.bind(*args))

    def returned(self, results: list[Tensor]) -> Any:
        """Return the results as the schema does: nothing, a tensor or a tuple."""
        if not self.returns:
            return None
        return results[0] if len(results) == 1 else tuple(results)


def define(
    schema: str,
    *,
    outputs: Callable[[Arguments], Sequence[Output]],
    rejects: Callable[[Arguments], str],
    reference: Callable[..., Any],
    contiguous: str = "",
    kernel_arguments: Callable[[Arguments], Sequence[Any]] | None = None,
    kernel_outputs: Callable[[Arguments, list[Tensor | None]], Sequence[Tensor | None]]
    | None = None,
) -> None:
    """Register one op for every backend.

    Args:
        schema: ``"name(Tensor x, ...) -> (Tensor means, ...)"``: every output has a name.
        outputs: Describes the outputs from the arguments' metadata.
        rejects: Says why a call's shapes and dtypes cannot be served, or returns an empty string.
            Kernels trust it: functional has checked the arguments, a raw ``torch.ops.ncfast`` call
            has not.
        reference: The definition, in plain torch; it takes the schema's arguments.
        contiguous: The names of arguments that kernels read as contiguous.
        kernel_arguments: The compiled kernels' arguments, where they are not the schema's.
        kernel_outputs: The same for their outputs.
    """
    LIBRARY.define(schema)
    name = schema.partition("(")[0]
    op = _definition(
        name, outputs, rejects, contiguous, kernel_arguments, kernel_outputs=kernel_outputs
    )
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, functools.partial(dispatch.call, name), key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", op.fake, lib=LIBRARY)

    def rejects_cpu(*args: Any) -> str:
        return native.missing(name) or op.reason(*args)

    dispatch.register(name, Kernel("cpu", ("cpu",), rejects_cpu, op.compiled))
    register_gpu_kernels(name, op.arguments, op.reason, op.compiled)
    dispatch.register(name, Kernel("reference", REFERENCE_DEVICES, lambda *args: "", reference))


def define_backward(schema: str, *, indexed: str = "", absent: str = "", **definition: Any) -> None:
    """Register the backward op ``NAME_backward`` and the gradient of ``NAME``.

    Autograd sits above dispatch, so any forward backend pairs with any backward backend. The
    backward op itself has no gradient: it raises, rather than be wrong.

    Args:
        schema: As of :func:`define`, with the names that this module's docstring explains.
        indexed: The inputs of which only the rows that ``index`` names are visited: the gradients
            of the others start as zeros.
        absent: The argument whose dtype the empty gradient of an absent input has; float64 if none.
        definition: The other arguments of :func:`define`.
    """
    returns = schema.partition("->")[2].strip().removeprefix("(").removesuffix(")").split(",")
    inputs = [part.split()[-1].removeprefix("grad_") for part in returns]

    def outputs(a: Arguments) -> list[Output]:
        return [_gradient(a, name, indexed.split(), absent) for name in inputs]

    define(schema, outputs=outputs, **definition)
    name = schema.partition("(")[0]
    _differentiate(name.removesuffix("_backward"), inputs)
    _stop_at(name)


def _gradient(a: Arguments, name: str, indexed: Sequence[str], absent: str) -> Output:
    like, asked = getattr(a, name), getattr(a, f"needs_{name}", True)
    if like is None:
        return Output((0,), getattr(a, absent).dtype if absent else torch.float64, asked=False)
    shape = tuple(like.shape) if asked else (0, *like.shape[1:])
    return Output(shape, like.dtype, name in indexed and a.index is not None, asked)


def _definition(
    name: str,
    outputs: Callable[[Arguments], Sequence[Output]],
    rejects: Callable[[Arguments], str],
    contiguous: str,
    kernel_arguments: Callable[[Arguments], Sequence[Any]] | None,
    kernel_outputs: Callable[..., Sequence[Tensor | None]] | None,
) -> Definition:
    arguments, returns = _names(name)
    passed = sum(not argument.startswith("needs_") for argument in arguments)  # those come last
    rows = [arguments.index(argument) for argument in contiguous.split()]

    def in_schema_order(a: Arguments) -> list[Any]:
        values = list(a[:passed])
        for i in rows:
            values[i] = None if values[i] is None else values[i].contiguous()
        return values

    return Definition(
        name,
        arguments,
        returns,
        namedtuple(name.strip("_"), arguments),
        outputs,
        rejects=rejects,
        kernel_arguments=kernel_arguments or in_schema_order,
        kernel_outputs=kernel_outputs or (lambda a, results: results),
    )


def _names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    schema = getattr(torch.ops.ncfast, name).default._schema
    return tuple(a.name for a in schema.arguments), tuple(r.name for r in schema.returns)


def _differentiate(name: str, differentiable: Sequence[str]) -> None:
    """Give an op its gradient, from the names in its schema and in its backward op's."""
    arguments, returns = _names(name)
    backward_arguments, _ = _names(f"{name}_backward")
    gradients = [f"grad_{output}" for output in returns]
    if "grad" in backward_arguments:
        gradients[0] = "grad"
    incoming = [i for i, gradient in enumerate(gradients) if gradient in backward_arguments]
    constant = [i for i in range(len(returns)) if i not in incoming]
    positions = [arguments.index(n) for n in differentiable]
    needs = [arguments.index(n[6:]) for n in backward_arguments if n.startswith("needs_")]
    # Everything else is saved, in the backward op's order: gradients, saved, needs.
    saved = backward_arguments[len(incoming) : len(backward_arguments) - len(needs)]
    places = [(*arguments, *returns).index(n) for n in saved]

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        known = (*inputs, *outputs)
        kept = [known[i] for i in places]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[outputs[i] for i in constant])
        # Tensors come first, settings after them: backward_arguments is checked for it.
        ctx.settings = kept[tensors:]
        ctx.save_for_backward(*kept[:tensors])

    def backward(ctx: Any, *grads: Any) -> Any:
        result: list[Tensor | None] = [None] * len(arguments)
        given = [grads[i] for i in incoming]
        if all(grad is None for grad in given):
            return tuple(result)
        asked = [ctx.needs_input_grad[i] for i in needs]
        found = run(*given, *ctx.saved_tensors, *ctx.settings, *asked)
        found = found if isinstance(found, tuple) else (found,)
        for position, grad in zip(positions, found, strict=True):
            if ctx.needs_input_grad[position]:
                result[position] = grad
        return tuple(result)

    run = getattr(torch.ops.ncfast, f"{name}_backward")
    types = [str(a.type) for a in run.default._schema.arguments][len(incoming) :][: len(saved)]
    tensors = sum("Tensor" in kind for kind in types)
    if not all("Tensor" in kind for kind in types[:tensors]) or set(
        backward_arguments[: len(incoming)]
    ) != {gradients[i] for i in incoming}:
        raise ValueError(f"{name}_backward: expected gradients, tensors, settings, needs_*")
    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY
    )


def _stop_at(name: str) -> None:
    def backward(ctx: Any, *grads: Any) -> Any:
        op = name.removesuffix("_backward")
        raise RuntimeError(
            f"{op}: second derivatives are not implemented; call backward without create_graph"
        )

    torch.library.register_autograd(
        f"{NAMESPACE}::{name}",
        backward,
        setup_context=lambda ctx, inputs, output: None,
        lib=LIBRARY,
    )
