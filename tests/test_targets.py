"""A config from a checkpoint builds a recogniser and runs nothing else."""

import pytest
import torch

from asr import checkpoint, evaluate
from asr.errors import InputError
from asr.targets import refuse_foreign_targets


@pytest.mark.parametrize(
    "target",
    [
        "asr.model.DeepSpeech2",
        "asr.augment.Sometimes",
        "asr.optim.one_cycle",
        "torch.nn.GRU",
        "torch.optim.Adam",
        "torch.optim.lr_scheduler.OneCycleLR",
        "audiomentations.Shift",
        "torchaudio.transforms.TimeMasking",
    ],
)
def test_what_a_recogniser_is_made_of_is_allowed(target):
    refuse_foreign_targets({"model": {"layers": [{"_target_": target, "size": 3}]}}, "a checkpoint")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "asr.cli.os.system",  # reached through a module of ours
        "asr.tracking.subprocess.Popen",
        "asr.provenance.subprocess.Popen",
        "torch.nn.modules.module.warnings.warn",
        "torch.load",
        "torch.hub.load",
        "asr.train.set_aside",  # a function of ours that acts
        "asr.download.fetch",
        "asrevil.Model",
        "torch.nn.",
        "asr",
        "",
        3,
        ["os.system"],
        None,
    ],
)
def test_anything_else_is_refused_by_name(target):
    with pytest.raises(InputError, match=r"a checkpoint: its config builds .*trust"):
        refuse_foreign_targets({"model": {"layers": [{"_target_": target}]}}, "a checkpoint")


def test_evaluate_refuses_a_hostile_checkpoint_and_runs_nothing(config, tmp_path):
    hostile = {"model": {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}, "features": {"n_mels": 8}}
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = checkpoint.TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    checkpoint.save(state.to_checkpoint(hostile), tmp_path / "hostile.pt")
    with pytest.raises(InputError, match=r"hostile\.pt: its config builds 'os\.system'"):
        evaluate.run(config(f"checkpoint={tmp_path / 'hostile.pt'}", name="evaluate", small=False))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_runs_code_is_not_read(config, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"config": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match=r"hostile\.pt: cannot be read"):
        evaluate.run(config(f"checkpoint={tmp_path / 'hostile.pt'}", name="evaluate", small=False))
    assert not (tmp_path / "ran").exists()
