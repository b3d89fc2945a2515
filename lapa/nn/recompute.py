"""Recomputing activations in the backward pass instead of keeping them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(model: nn.Module, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What a part of a model gives; in training its activations are not kept but computed once more when needed."""
    if not model.training:
        return part(*inputs)
    contexts = functools.partial(recomputation_contexts, model)
    output: Tensor = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
    return output


def recomputation_contexts(model: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward pass and of its recomputation, in which batch norm must not count the batch again."""
    return nullcontext(), frozen_statistics(model)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within, batch norm uses the batch's statistics as ever, but its running ones stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
