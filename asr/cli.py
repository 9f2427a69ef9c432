"""What every command shares: Hydra, with a user's mistakes shown as one paragraph instead of a traceback."""

import argparse
import errno
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import hydra
import pyarrow
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr.config.help import print_help
from asr.config.naming import run_name, study_name
from asr.errors import InputError, ToldError, mask
from asr.passwords import move_config_passwords, move_passwords
from asr.training.distributed import is_main_process, leave_after_main, processes
from asr.training.memory import explain_lost_memory, limit_memory
from asr.training.signals import LAUNCHER, Interrupted, stop_at_once_on_sigterm, stop_without

CONF = Path(__file__).resolve().parent.parent / "conf"

# What a user's mistake raises; OSError is explained only if it is about a path or a full disk.
MISTAKES = (InputError, HydraException, OmegaConfBaseException, YAMLError, OSError)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
BAD_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOENT, errno.EEXIST,
            errno.EISDIR, errno.ELOOP)  # fmt: skip


def entry_point(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make `main(config)` of a module the command `python -m asr.NAME KEY=VALUE ...`, with conf/NAME.yaml.

    Exit codes: 0 done, 1 an error of ours (with its traceback), 2 a mistake of the user's (one paragraph), 130 Ctrl-C,
    143 SIGTERM.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(Task(f"asr.{name}"))

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
            try:
                sys.argv[1:] = [move_passwords(argument) for argument in sys.argv[1:]]
                if processes() > 1 and name != "train":
                    fail_alike(f"asr.{name} runs in one process: start it without torchrun")
                flags = refuse_arguments(sys.argv[1:])
                if flags.help:
                    one_run = [] if flags.multirun else flags.overrides  # the values of several cannot be shown
                    print_help(name, one_run, [Path(flags.config_dir), CONF] if flags.config_dir else [CONF])
                else:
                    hydra_main()
            except KeyboardInterrupt as stop:
                if isinstance(stop, Interrupted):
                    leave_after_main()
                sys.exit(getattr(stop, "exit_code", 130))
            except MISTAKES as error:
                _end(error, name)
            except ValueError as error:
                *_, (frame, _) = traceback.walk_tb(error.__traceback__)
                if not frame.f_globals["__name__"].startswith("hydra."):
                    raise
                fail_alike(f"{error}; see --help for the settings and --hydra-help for the flags")
            except (MemoryError, RuntimeError) as error:
                if not (explained := explain_lost_memory(error)):
                    raise
                _fail(explained)

        main.task = task  # type: ignore[attr-defined]
        return main

    return decorate


@dataclass(frozen=True)
class Task:
    """The function that Hydra calls for each job: the decorated `main` of a module.

    It holds only the module's name, since launchers pickle it for other processes.
    """

    module: str

    def __call__(self, config: DictConfig) -> None:
        configure_process()
        stop_at_once_on_sigterm()
        if launcher := os.environ.pop(LAUNCHER, None):
            stop_without(int(launcher))
        try:
            move_config_passwords(config)
            limit_memory()
            import_module(self.module).main.task(config)
        except MISTAKES as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the other jobs still run
            _end(error, self.module.removeprefix("asr."))


def configure_process() -> None:
    """Set what holds for the whole process, and for the workers that are forked from it."""
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own pool keeps what it frees: 0.1 GB for LibriSpeech
    # If the very first step is skipped, the schedule is stepped before the optimizer, which is right here.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


def _end(error: Exception, command: str) -> NoReturn:
    """End the process with a paragraph on the error, or raise it if it is no mistake of the user's."""
    if isinstance(error, ToldError):
        leave_after_main()
        sys.exit(2)
    if isinstance(error, InputError):
        _fail(str(error))
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        fail_alike(_explain(error, command))
    if isinstance(error, YAMLError):
        fail_alike(f"a config file is not valid YAML: {' '.join(str(error).split())}. Text with a colon needs quotes")
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        _fail(f"{error}: the disk is full. Make room, and rerun the command to resume from its last checkpoint")
    if isinstance(error, OSError) and error.errno in BAD_PATH and error.filename:
        _fail(
            f"{error.filename}: {error.strerror}. Give the setting that names this place another value; "
            "results go to output_dir"
        )
    raise error


def _fail(message: str) -> NoReturn:
    print(f"error: {mask(message)}", file=sys.stderr)
    sys.exit(2)


def fail_alike(message: str) -> NoReturn:
    """End the process with a paragraph on a mistake that all processes of a training find; the main one prints it."""
    if not is_main_process():
        time.sleep(10)  # torchrun ends all when one has ended
        sys.exit(2)
    _fail(message)


def refuse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what is typed; end the process with a paragraph where Hydra would show its usage or a traceback."""
    parser = get_args_parser()
    parser.allow_abbrev = False  # --experiment would be short for --experimental-rerun
    hint = "Flags come first, then settings without dashes, as KEY=VALUE; --hydra-help lists the flags"
    parser.error = lambda message: fail_alike(f"{message}. {hint}")  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.experimental_rerun:
        fail_alike("--experimental-rerun does not work here: the command of a run, in its plan.json, repeats it")
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        key, _, option = str(override.input_line).partition("=")
        typed: object = override.value()
        if not key:
            fail_alike(f"{override.input_line}: the name of the setting is missing; settings are given as KEY=VALUE")
        if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"):
            fail_alike(f"{key}={option}: Hydra makes no directories here; output_dir=DIRECTORY says where results go")
        if _chooses_one(override) and not isinstance(typed, str | list):
            fail_alike(_no_such_option(key, option, _options(key)))
    return flags


def _options(group: str) -> list[str]:
    """Return the options of a group of conf/; none for what is no group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []


def _no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    return f"{group}={option}: there is no such option{_hint(option, options)} Valid for {group}: {', '.join(options)}"


def _hint(name: str, names: Sequence[str], prefix: str = "") -> str:
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "."


def _explain(error: Exception, config_name: str) -> str:
    """Return Hydra's message, with the valid names where a setting or an option does not exist."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return _no_such_option(group, option, error.options)
    message = str(error).split("Config search path:")[0]
    key = re.search(r"Could not override '([^'=@]+)'", message)
    if key is None:
        override = getattr(error, "override", None)  # which the messages of Hydra's parser do not name
        return (f"{override}: " if override else "") + re.sub(r"\s*\n\s*", " ", message.strip())
    typed = OverridesParser.create().parse_overrides(get_args_parser().parse_args().overrides)
    groups = [str(override.input_line) for override in typed if _chooses_one(override)]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, groups, return_hydra_config=True)
    return no_such_setting(config, key[1].strip("+~"))


def _chooses_one(override: Override) -> bool:
    return bool(_options(override.key_or_group)) and not (override.is_delete() or override.is_sweep_override())


def no_such_setting(config: DictConfig, key: str) -> str:
    """Return a message on a key that the config lacks, with the valid names at its place."""
    parent, _, name = key.rpartition(".")
    level = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(level):
        return f"{key}: there is no such setting, nor a group {parent!r}; see --cfg job for all of them"
    names = [str(n) for n in level if n != "hydra"]
    hint = _hint(name, names, f"{parent}." if parent else "")
    return f"{key}: there is no such setting{hint} Valid {'in ' + parent if parent else 'here'}: {', '.join(names)}"


def divide(value: float, by: float) -> float:
    """Return the quotient: a whole number where it is one, else rounded to 12 digits, so that 6e-4 / 6 is 1e-4."""
    return value // by if value % by == 0 else float(f"{value / by:.12g}")


OmegaConf.register_new_resolver("divide", divide)
OmegaConf.register_new_resolver("run_name", run_name)
OmegaConf.register_new_resolver("study_name", study_name)
