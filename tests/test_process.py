"""What holds for a whole process is set by the command that it runs, not by imports."""

import subprocess
import sys

from conftest import ROOT

IMPORTS = """
import gc, warnings
import pyarrow, torch
before = gc.get_threshold(), pyarrow.default_memory_pool().backend_name
import asr.config.build
from asr.data.features import LogMel
LogMel(16_000, n_fft=400, hop_samples=200, n_mels=128, max_hz=None, floor=1e-5, normalize="none")
assert (gc.get_threshold(), pyarrow.default_memory_pool().backend_name) == before
ours = [str(message.pattern) for _, message, *_ in warnings.filters if message]
assert not [text for text in ours if "lr_scheduler" in text or "mel filterbank" in text], ours
"""


def test_a_program_that_imports_the_package_keeps_its_own_settings():
    process = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stderr == "", "the filters with no frequency in them are no news"
