"""The training loop."""

import time

from asr.decoding.greedy import Greedy
from asr.training.doctor import is_overfitted
from asr.training.evaluation import evaluate
from asr.training.experiment import Experiment
from asr.training.memory_check import check_memory
from asr.training.monitor import TrainingMonitor
from asr.training.parallel import distribute
from asr.training.state import TrainState
from asr.training.step import train_step


def fit(run: Experiment, state: TrainState, monitor: TrainingMonitor) -> None:
    """Train until the last epoch; score dev after each.

    state: where to start, which may be within an epoch. Whatever the monitor raises, training can resume from it.
    """
    world, max_grad_norm = run.compute.world, run.config["max_grad_norm"]
    model = distribute(run.recognizer.model, run.compute)
    check_memory(run, model)
    batches, greedy = run.training_batches(state.position), Greedy(run.recognizer.alphabet)
    while state.epoch < run.epochs and not is_overfitted(state.history, run.config):
        model.train()
        start = time.perf_counter()
        while state.this_epoch.steps < run.steps_per_epoch:
            metrics = train_step(model, next(batches), state.optimizer, state.scheduler, max_grad_norm, run.compute)
            now = time.perf_counter()
            state.count(metrics, now - start)  # with the time spent waiting for data
            start = now
            monitor.step(state, metrics)
        world.share_buffers(state.model)
        dev = evaluate(state.model, monitor.until_stopped(run.dev_batches()), greedy, run.compute)
        state.end_epoch(dev, run.config["monitor"])
        monitor.epoch(state)
