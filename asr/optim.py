"""Learning-rate schedules, all called alike: (optimizer, total_steps, settings). They are stepped after every batch."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, LRScheduler, OneCycleLR

from asr.errors import InputError


def one_cycle(optimizer: Optimizer, total_steps: int, max_lr: float, **settings: Any) -> LRScheduler:
    """Up to max_lr and down again within total_steps. The optimizer's own lr is not used: OneCycleLR sets its own.

    source: torch's OneCycleLR. It cycles momentum (or Adam's beta1) too unless cycle_momentum is false
    """
    return OneCycleLR(optimizer, max_lr, total_steps=total_steps, **settings)


def cyclic(optimizer: Optimizer, total_steps: int, base_lr: float, max_lr: float, **settings: Any) -> LRScheduler:
    """Up and down between base_lr and max_lr again and again, whatever total_steps is.

    source: torch's CyclicLR
    raises: InputError if it is to cycle the momentum of an optimizer that has none
    """
    if settings.get("cycle_momentum", True) and "momentum" not in optimizer.defaults:
        raise InputError(
            f"scheduler.cycle_momentum=true: {type(optimizer).__name__} has no momentum for CyclicLR to cycle; "
            "set scheduler.cycle_momentum=false or optimizer=sgd"
        )
    return CyclicLR(optimizer, base_lr, max_lr, **settings)


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The optimizer's lr from the first step to the last, however many there are."""
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
