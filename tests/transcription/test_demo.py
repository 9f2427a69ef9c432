"""The page of asr.demo, over HTTP and in a real browser with a microphone that plays a file."""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from contextlib import contextmanager
from io import BytesIO

import aiohttp
import numpy as np
import pytest
import soundfile
import torch
import uvicorn
from conftest import RATE, compose_small, exit_code, forked, tones, wait_for

import asr
from asr import demo
from asr.config.build import build_recognizer
from asr.decoding.greedy import Greedy
from asr.errors import InputError
from asr.transcription.server import Limits, listen, make_app, page_headers
from asr.transcription.transcriber import Transcriber

LIMITS = Limits(max_seconds=5, max_megabytes=1, max_waiting=1, max_wait_seconds=20)


class Gated(Transcriber):
    """A transcriber that waits for its gate, for tests of the queue."""

    gate = threading.Event()

    def transcribe(self, audio, rate=None):
        assert self.gate.wait(20)
        return super().transcribe(audio, rate)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory):
    """An untrained model whose weights are so large that it hears letters."""
    recognizer = build_recognizer(compose_small("corpus", tmp_path_factory.mktemp("demo")), seed=3)
    with torch.no_grad():
        for weights in recognizer.model.parameters():
            weights.mul_(4)
    recognizer.model.eval()
    return Transcriber(recognizer, Greedy(recognizer.alphabet), torch.device("cpu"))


@contextmanager
def served(transcriber, limits=LIMITS):
    """The port of a server in a thread."""
    with listen(0) as listener:
        app = make_app(transcriber, limits, title="<b>best.pt</b>")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, "the server")
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(transcriber):
    with served(transcriber) as port:
        yield port


def ask(port, method="POST", path="/transcribe", body=None, headers=()):
    """(status, content, headers) of an answer; the content of JSON is parsed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    is_json = answer.headers.get_content_type() == "application/json"
    connection.close()
    return answer.status, json.loads(content) if is_json else content.decode(), answer.headers


def encoded(samples, rate=RATE, format="WAV", **options):
    file = BytesIO()
    soundfile.write(file, samples, rate, format=format, **options)
    return file.getvalue()


SPEECH = tones("abba dad facade", np.random.default_rng(0))


def expected(transcriber, content):
    samples, rate = soundfile.read(BytesIO(content), dtype="float32")
    return transcriber.transcribe(samples, rate)


@pytest.mark.parametrize(
    "content",
    [
        encoded(SPEECH),
        encoded(SPEECH, format="FLAC"),
        encoded(np.stack([SPEECH, SPEECH], 1), 44_100),
        encoded(SPEECH[:1]),
        encoded(np.zeros(RATE)),
    ],
    ids=["wav", "flac", "stereo 44.1 kHz", "one sample", "silence"],
)
def test_the_answer_is_the_transcribers(port, transcriber, content):
    status, answer, _ = ask(port, body=content)
    transcript = expected(transcriber, content)
    assert status == 200
    assert answer["text"] == transcript.text
    assert answer["words"] == [word._asdict() for word in transcript.words]
    assert answer["n_best"] == [hypothesis._asdict() for hypothesis in transcript.n_best]
    assert answer["seconds"] == pytest.approx(transcript.seconds, abs=1e-3)
    spectrogram = answer["spectrogram"]
    frames, rest = divmod(len(b64decode(spectrogram["levels"])), spectrogram["bins"])
    assert rest == 0
    assert frames * spectrogram["frame_seconds"] == pytest.approx(transcript.seconds, abs=0.03)


def endless():
    """More than the bound, in pieces, without a Content-Length."""
    for _ in range(100):
        yield bytes(100_000)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "The file is empty"),
        (b"RIFF, but not really", 415, "no audio that can be read"),
        (encoded(np.zeros(0)), 400, "no samples"),
        (encoded(np.zeros(RATE * 6), format="FLAC"), 413, r"longer than 5 s \(max_seconds\)"),
        (bytes(1_000_001), 413, r"larger than 1 MB \(max_megabytes\)"),
        (endless, 413, r"larger than 1 MB \(max_megabytes\)"),
        (encoded(np.array([0.1, np.nan]), subtype="FLOAT"), 400, "not finite"),
        (encoded(SPEECH, rate=100), 400, "sample rate is 100 Hz"),
    ],
    ids=["0 bytes", "no audio", "0 samples", "too long", "too large", "too large without a length", "nan", "100 Hz"],
)
def test_what_cannot_be_used_is_answered_by_a_sentence(port, body, status, sentence):
    answered, content, _ = ask(port, body=body() if callable(body) else body)
    assert answered == status
    assert re.search(sentence, content["detail"])


def test_other_sites_get_nothing(port):
    content = encoded(SPEECH)
    assert ask(port, "GET", "/", headers={"Host": "evil.example"})[0] == 400
    assert ask(port, body=content, headers={"Host": f"evil.example:{port}"})[0] == 400
    assert ask(port, body=content, headers={"Origin": "http://evil.example"})[0] == 403
    assert ask(port, body=content, headers={"Origin": "null"})[0] == 403
    for name in ("127.0.0.1", "localhost"):
        site = f"{name}:{port}"
        assert ask(port, body=content, headers={"Host": site, "Origin": f"http://{site}"})[0] == 200


def test_the_page_may_run_its_own_scripts_only(port):
    status, page, headers = ask(port, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy == page_headers(page)["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page  # nothing from elsewhere
    assert "innerHTML" not in page


def test_uploads_wait_for_their_turn_and_too_many_are_sent_away(transcriber):
    gated = Gated(transcriber.recognizer, transcriber.decoder, transcriber.device)
    gated.gate.clear()
    statuses = []

    def upload():
        while (status := ask(port, body=encoded(SPEECH))[0]) == 503:  # the question below had its place
            time.sleep(0.01)
        statuses.append(status)

    with served(gated) as port:
        threads = [threading.Thread(target=upload) for _ in range(2)]
        try:
            for thread in threads:
                thread.start()
            wait_for(lambda: ask(port, body=b"")[0] == 503, "a full queue")  # empty bodies are not transcribed: 400
            status, content, _ = ask(port, body=encoded(SPEECH))
        finally:
            gated.gate.set()
        for thread in threads:
            thread.join()
        assert (status, content["detail"][:26]) == (503, "2 recordings are before yo")
        assert statuses == [200, 200]
        assert ask(port, body=encoded(SPEECH))[0] == 200


def test_an_upload_that_never_ends_is_given_up(transcriber):
    with served(transcriber, Limits(5, 1, max_waiting=0, max_wait_seconds=0.2)) as port:
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(f"POST /transcribe HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 9\r\n\r\n".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 503")
        assert ask(port, body=encoded(SPEECH))[0] == 200


KEEP_WHAT_IS_POSTED = """
window.posted = [];
const real = window.fetch;
window.fetch = (address, options) => { if (options?.body) posted.push(options.body); return real(address, options); };
"""
LAST_POSTED = """
posted.at(-1).arrayBuffer().then(b => btoa(Array.from(new Uint8Array(b), c => String.fromCharCode(c)).join("")))
"""
SHOWN = """({
  words: [...document.querySelectorAll(".word")].map(
    w => [w.firstChild.data, ...w.querySelector("small").textContent.split("\\u2013").map(Number)]),
  bars: [...document.querySelectorAll(".bar")].map(b => b.textContent),
  hypotheses: [...document.querySelectorAll("#hypotheses li")].map(h => h.firstChild.data),
  status: document.getElementById("status").textContent,
  idle: !document.getElementById("record").disabled && !stopRecording,
  about: document.getElementById("about").textContent,
  overflow: document.documentElement.scrollWidth - innerWidth,
  canvas: [document.getElementById("spectrogram").width, document.getElementById("spectrogram").height],
  now: [...document.querySelectorAll(".word.now")].map(w => w.firstChild.data),
})"""


class Tab:
    """A page in a browser, driven by the Chrome DevTools Protocol."""

    def __init__(self, socket):
        self.socket, self.number, self.problems = socket, 0, []

    async def send(self, method, **parameters):
        """The result of a command; errors in the page's console are kept."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while (message := await self.socket.receive_json(timeout=30)).get("id") != self.number:
            kind, about = message["method"], message["params"]
            if (
                kind == "Runtime.exceptionThrown"
                or (kind == "Log.entryAdded" and about["entry"]["level"] == "error")
                or (kind == "Runtime.consoleAPICalled" and about["type"] == "error")
            ):
                self.problems.append(about)
        return message["result"]

    async def run(self, script):
        """The value of a script, as after a click of the visitor's."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, holds, seconds=20):
        """What the page shows as soon as that holds."""
        deadline = time.monotonic() + seconds
        while not holds(shown := await self.run(SHOWN)):
            assert time.monotonic() < deadline, (shown, self.problems)
            await asyncio.sleep(0.05)
        return shown


def test_a_port_that_is_taken_is_a_paragraph(port):
    with pytest.raises(InputError, match=rf"port={port}: .*in use.*port=0"):
        listen(port)


def test_ctrl_c_ends_the_command(transcriber, tmp_path, monkeypatch):
    monkeypatch.setattr(asr, "load", lambda path, device: transcriber)
    monkeypatch.setattr(sys, "argv", ["asr.demo", "checkpoint=best.pt", "port=0"])
    printed = tmp_path / "printed"

    def command():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job ignores it
        with printed.open("w") as sys.stdout:
            demo.main()

    child = forked(command)
    address = wait_for(lambda: printed.exists() and re.search(r"http://127\.0\.0\.1:(\d+)", printed.read_text()))
    assert ask(int(address[1]), body=encoded(SPEECH))[0] == 200
    os.kill(child, signal.SIGINT)
    assert exit_code(child) == 130
    assert "Traceback" not in printed.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint is not given"),
        (["checkpoint=missing.pt"], r"missing\.pt"),
        (["checkpoint=x", "port=70000"], "port=70000: it must be a whole number from 0 to 65,535"),
        (["checkpoint=x", "max_seconds=0"], "max_seconds=0: it must be a number above 0"),
    ],
)
def test_a_mistake_is_a_paragraph(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["asr.demo", "port=0", *arguments])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert re.search(rf"^error: .*{message}", capsys.readouterr().err)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """The address of the debugger of a browser whose microphone plays a file."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed to open the page in")
    folder = tmp_path_factory.mktemp("chromium")
    soundfile.write(folder / "microphone.wav", np.tile(SPEECH, 3), RATE)
    process = subprocess.Popen(
        [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--remote-debugging-port=0", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
         f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        active = folder / "profile" / "DevToolsActivePort"
        wait_for(lambda: active.exists() and active.read_text().count("\n"), "the browser", 30)
        yield f"http://127.0.0.1:{active.read_text().splitlines()[0]}"
    finally:
        process.terminate()
        process.wait()


def visit(chromium, port, width, script):
    """Do something in a new tab of this width, in which the page has been opened."""

    async def in_a_tab():
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{chromium}/json/new?about:blank") as answer:
                address = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await tab.send(f"{domain}.enable")
                await tab.send("Page.addScriptToEvaluateOnNewDocument", source=KEEP_WHAT_IS_POSTED)
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                await tab.send("Emulation.setDeviceMetricsOverride", **size)
                await tab.send("Page.navigate", url=f"http://127.0.0.1:{port}/")
                while await tab.run("document.readyState") != "complete" or not await tab.run("!!window.posted"):
                    await asyncio.sleep(0.02)
                await tab.until(lambda shown: shown["idle"])
                await script(tab)
                assert tab.problems == []

    asyncio.run(in_a_tab())


def as_shown(transcript):
    rounded = {"abs": 0.0051}
    return [[w.text, pytest.approx(w.start, **rounded), pytest.approx(w.end, **rounded)] for w in transcript.words]


@pytest.mark.parametrize("width", [1400, 400])
def test_words_grow_while_the_microphone_records(chromium, port, transcriber, width):
    async def script(tab):
        await tab.run("document.getElementById('record').click()")
        growing = await tab.until(lambda shown: shown["words"])
        assert growing["status"].startswith("Recording")
        await tab.run("document.getElementById('record').click()")
        shown = await tab.until(lambda shown: "s recorded" in shown["status"])
        transcript = expected(transcriber, b64decode(await tab.run(LAST_POSTED)))
        assert transcript.seconds > 0.5
        assert shown["words"] == as_shown(transcript) != []
        assert shown["bars"] == [word.text for word in transcript.words]
        assert shown["hypotheses"] == [transcript.n_best[0].text.strip()]
        assert shown["canvas"] == [pytest.approx(transcript.seconds * 80, abs=2), 40]
        assert shown["overflow"] <= 0
        assert shown["about"].startswith("<b>best.pt</b>: ")

    visit(chromium, port, width, script)


DROP = """
(() => { const transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(atob("CONTENT"), c => c.charCodeAt(0))], "NAME"));
dispatchEvent(new DragEvent("drop", {dataTransfer: transfer})); })()
"""


def drop(name, content):
    return DROP.replace("NAME", name).replace("CONTENT", b64encode(content).decode())


def test_a_file_is_dropped_and_the_word_under_the_playhead_is_marked(chromium, port, transcriber):
    content = encoded(SPEECH, format="FLAC")
    name = "<img src=x onerror=alert(1)>.flac"
    transcript = expected(transcriber, content)

    async def script(tab):
        await tab.run(drop(name, content))
        shown = await tab.until(lambda shown: shown["idle"] and shown["words"])
        assert shown["words"] == as_shown(transcript)
        assert shown["status"].startswith(name)
        first, *_, last = transcript.words
        await tab.run("[...document.querySelectorAll('.word')].at(-1).click()")  # plays from there to the end
        await tab.until(lambda shown: shown["now"] == [last.text])
        await tab.run(f"audio.pause(); seek({(first.start + first.end) / 2}, false)")
        await tab.until(lambda shown: shown["now"] == [first.text])

    visit(chromium, port, 1400, script)


RECORD_WEBM = """
(async () => {
  const context = new AudioContext(), to = context.createMediaStreamDestination(), from = context.createBufferSource();
  from.buffer = await context.decodeAudioData(Uint8Array.from(atob("CONTENT"), c => c.charCodeAt(0)).buffer);
  from.connect(to);
  const recorder = new MediaRecorder(to.stream), parts = [];
  recorder.ondataavailable = ({data}) => parts.push(data);
  recorder.start();
  from.start();
  await new Promise(resolve => from.onended = resolve);
  await new Promise(resolve => { recorder.onstop = resolve; recorder.stop(); });
  await transcribeFile(new File(parts, "voice.webm"));
})()
"""


def test_a_file_that_the_browser_alone_can_read_is_sent_as_wav(chromium, port, transcriber):
    async def script(tab):
        await tab.run(RECORD_WEBM.replace("CONTENT", b64encode(encoded(SPEECH)).decode()))
        shown = await tab.run(SHOWN)
        transcript = expected(transcriber, b64decode(await tab.run(LAST_POSTED)))
        assert transcript.seconds == pytest.approx(len(SPEECH) / RATE, abs=0.3)
        assert shown["words"] == as_shown(transcript) != []
        assert shown["status"] == f"voice.webm: {transcript.seconds:.1f} s"
        assert len(tab.problems) == 1  # the browser's own line on the status 415
        tab.problems.clear()

    visit(chromium, port, 1400, script)


def test_what_cannot_be_used_is_a_sentence_on_the_page(chromium, port):
    async def script(tab):
        await tab.run(drop("notes.wav", b"no sound"))
        shown = await tab.until(lambda shown: shown["idle"] and "audio" in shown["status"])
        assert shown["words"] == []
        assert len(tab.problems) == 1  # the browser's own line on the status 415
        tab.problems.clear()

    visit(chromium, port, 400, script)
