"""Learning-rate schedules with the same signature (optimizer, total_steps, settings), stepped after every batch."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, LRScheduler, OneCycleLR

from asr.errors import InputError


def one_cycle(optimizer: Optimizer, total_steps: int, max_lr: float, **settings: Any) -> LRScheduler:
    """Raise the learning rate to max_lr, which is the optimizer's lr, and lower it again within total_steps.

    source: torch's OneCycleLR. It cycles momentum (or Adam's beta1) too unless cycle_momentum is false
    raises: InputError if the way up has no step, or max_lr is another than the optimizer's
    """
    _validate_peak(optimizer, max_lr)
    try:
        return OneCycleLR(optimizer, max_lr, total_steps=total_steps, **settings)
    except ZeroDivisionError as error:
        raise InputError(
            f"scheduler.pct_start={settings.get('pct_start')}: the way up ends with the first of {total_steps} steps; "
            "train a step more or raise it"
        ) from error


def cyclic(
    optimizer: Optimizer, total_steps: int, base_lr: float, max_lr: float, cycles: float, **settings: Any
) -> LRScheduler:
    """Cycle between base_lr and max_lr, which is the optimizer's lr; a cycle has two steps at least.

    cycles: how many cycles fit into total_steps, so that a shortened run keeps the shape of its schedule; torch's
            step_size_up is half of a cycle's steps
    source: torch's CyclicLR. It cycles momentum (or Adam's beta1) too unless cycle_momentum is false
    raises: InputError if cycles is not above 0, or max_lr is another than the optimizer's
    """
    _validate_peak(optimizer, max_lr)
    if not cycles > 0:
        raise InputError(f"scheduler.cycles={cycles}: it must be above 0")
    half = max(1.0, total_steps / cycles / 2)
    return CyclicLR(optimizer, base_lr, max_lr, step_size_up=half, **settings)  # type: ignore[arg-type]


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Keep the optimizer's lr from the first step to the last."""
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _validate_peak(optimizer: Optimizer, max_lr: float) -> None:
    """InputError if max_lr is not the optimizer's lr, which would then have no effect."""
    if max_lr != optimizer.defaults["lr"]:
        raise InputError(
            f"scheduler.max_lr={max_lr} and optimizer.lr={optimizer.defaults['lr']}: the schedule's peak is "
            f"optimizer.lr; set that to {max_lr}, and max_lr follows"
        )
