"""Move passwords from addresses to the environment before anything else sees them."""

import os
import re
from urllib.parse import unquote

from omegaconf import DictConfig, OmegaConf

from asr.errors import InputError

SETTINGS = ("tracking.uri", "study.storage")  # those that hold an address
LOGIN = re.compile(r"([A-Za-z][\w+.-]*)://([^\s'\":/?@]*)(?::([^\s'\"]*))?@([^\s'\"@]*)")
QUERY = re.compile(r"([?&])password=([^\s&'\"]*)&?")


def move_passwords(text: str) -> str:
    """Take the passwords out of the addresses in a text and put them where their clients look for them.

    http(s)://USER:PASSWORD@HOST becomes http(s)://HOST, by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD;
    postgresql://USER:PASSWORD@HOST/NAME becomes postgresql://USER@HOST/NAME, by PGPASSWORD. Child processes, such as
    those of a launcher, inherit them.

    raises: InputError for a password in another kind of address, or for two different ones of PostgreSQL
    source: MLflow, "Authenticate"; PostgreSQL, libpq, "Environment Variables"
    """
    return LOGIN.sub(_move_login, text)


def move_config_passwords(config: DictConfig) -> None:
    """Take the passwords out of a config's addresses, in place."""
    for key in SETTINGS:
        address = OmegaConf.select(config, key)
        if isinstance(address, str):
            OmegaConf.update(config, key, move_passwords(address))


def _move_login(found: re.Match) -> str:
    scheme, user, password, rest = found.groups()
    if scheme in ("http", "https"):
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        if password is not None:
            os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        return f"{scheme}://{rest}"
    if query := QUERY.search(rest):
        password, rest = query[2], QUERY.sub(r"\1", rest).rstrip("?&")
    if password is None:
        return found[0]
    if not scheme.startswith("postgres"):
        raise InputError(
            f"{scheme}://{user}:***@{rest}: only addresses of http, https and postgresql may hold a password; give it "
            "to the client of this one in the way that it documents, such as an option file"
        )
    if os.environ.setdefault("PGPASSWORD", unquote(password)) != unquote(password):
        raise InputError(
            f"{scheme}://{user}:***@{rest}: PGPASSWORD holds another password already. Passwords of several databases "
            "belong into ~/.pgpass, which libpq reads, and not into their addresses"
        )
    return f"{scheme}://{user}@{rest}"
