"""Passwords in addresses reach the servers that they are for, and nothing else: no file, no database, no terminal."""

import base64
import os
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import SMALL

from asr import search, train
from asr.errors import InputError, mask
from asr.passwords import move_passwords

SECRET, OTHER_SECRET = "s3cr3t/x?y", "an0ther"
IN_URL = "s3cr3t%2Fx%3Fy"
VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """None of the variables is set, and whatever the code sets is taken back."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(
    ("address", "left", "variables"),
    [
        ("http://h:5000", "http://h:5000", {}),
        ("http://alice:p@h:5000", "http://h:5000", {VARIABLES[0]: "alice", VARIABLES[1]: "p"}),
        ("https://alice:p%2Fq@h/x", "https://h/x", {VARIABLES[0]: "alice", VARIABLES[1]: "p/q"}),
        ("http://alice:p/q@r@h", "http://h", {VARIABLES[0]: "alice", VARIABLES[1]: "p/q@r"}),
        ("postgresql://h/x", "postgresql://h/x", {}),
        ("postgresql://u@h/x", "postgresql://u@h/x", {}),
        ("postgresql+psycopg://u:p@h/x", "postgresql+psycopg://u@h/x", {VARIABLES[2]: "p"}),
        ("postgresql://u@h/x?password=p", "postgresql://u@h/x", {VARIABLES[2]: "p"}),
        ("postgresql://u@h/x?password=p&sslmode=on", "postgresql://u@h/x?sslmode=on", {VARIABLES[2]: "p"}),
        ("sqlite:///a@b/x.db", "sqlite:///a@b/x.db", {}),
    ],
)
def test_a_password_moves_into_the_environment(address, left, variables):
    assert move_passwords(f"tracking.uri='{address}'") == f"tracking.uri='{left}'"
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == variables


def test_a_password_that_no_variable_can_hold_is_refused_without_being_shown():
    move_passwords("postgresql://u:p@h/x")
    for address in ("mysql+pymysql://u:s3cr3t@h/x", "postgresql://u:s3cr3t@h/y"):
        with pytest.raises(InputError) as refused:
            move_passwords(address)
        assert "s3cr3t" not in str(refused.value)
        assert "//u:***@h/" in str(refused.value)


@pytest.mark.parametrize("address", ["http://u:s3/c?r@3t@h/x", "postgresql://u@h/x?a=b&password=s3/c?r@3t"])
def test_what_others_say_of_an_address_is_masked(address):
    masked = mask(f'cannot connect to "{address}", try again')
    assert "s3" not in masked
    assert "3t" not in masked
    assert masked.endswith('", try again')


def everything_in(folder):
    """The content of all files below a folder, and their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"\n".join([path.read_bytes() + os.fsencode(path) for path in files])


@pytest.fixture
def server():
    """A tracking server that is not well: it notes the passwords that it is given, and answers 503."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind, _, code = self.headers.get("Authorization", "").partition(" ")
            seen.append(base64.b64decode(code).decode() if kind == "Basic" else None)
            self.send_error(503)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_training_writes_no_password_and_resumes_with_another(corpus, tmp_path, monkeypatch, capfd, server):
    place, seen = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for password in (IN_URL, OTHER_SECRET):
        overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=1"]
        monkeypatch.setattr(sys, "argv", ["asr.train", *overrides, f"tracking.uri=http://alice:{password}@{place}"])
        train.main()
    # The second start finds a finished run, and tries to send what the server lacks.
    assert set(seen) == {f"alice:{SECRET}", f"alice:{OTHER_SECRET}"}
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert (run / "journal.jsonl").read_text().count('"kind": "start"') == 1
    assert f'"http://{place}"' in (run / "config.json").read_text()
    printed = capfd.readouterr()
    for secret in (SECRET, IN_URL, OTHER_SECRET, "alice"):
        assert secret.encode() not in everything_in(tmp_path)
        assert secret not in printed.out + printed.err


def postgres_that_asks(listener, seen):
    """Speaks PostgreSQL's protocol up to the password, which it notes and refuses."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        with connection, connection.makefile("rb") as received:
            length, code = struct.unpack("!ii", received.read(8))
            while code in (80877103, 80877104):  # may it be encrypted? No
                connection.sendall(b"N")
                length, code = struct.unpack("!ii", received.read(8))
            received.read(length - 8)
            connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # a password in clear text, please
            if received.read(1) == b"p":
                seen.append(received.read(struct.unpack("!i", received.read(4))[0] - 4).rstrip(b"\0").decode())
            message = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"
            connection.sendall(b"E" + struct.pack("!i", 4 + len(message)) + message)


@pytest.mark.parametrize("form", ["postgresql+psycopg://u:{}@{}/x", "postgresql+psycopg://u@{1}/x?password={0}"])
def test_a_search_gives_its_password_to_postgresql_alone(form, corpus, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=postgres_that_asks, args=[listener, seen])
        thread.start()
        storage = form.format(IN_URL, f"127.0.0.1:{listener.getsockname()[1]}")
        overrides = [f"data.root={corpus}", *SMALL, f"study.storage='{storage}'"]
        monkeypatch.setattr(sys, "argv", ["asr.search", *[o for o in overrides if not o.startswith("optimizer.lr")]])
        with pytest.raises(SystemExit) as end:
            search.main()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    printed = capfd.readouterr()
    assert end.value.code == 2
    assert "password authentication failed" in printed.err
    assert set(seen) == {SECRET}
    for secret in (SECRET, IN_URL):
        assert secret.encode() not in everything_in(tmp_path)
        assert secret not in printed.out + printed.err
