"""Serve a page that transcribes recordings, to the browsers of this machine alone."""

import asyncio
import os
import re
import socket
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from asr.errors import InputError
from asr.settings import SAMPLE_RATES
from asr.transcription.transcriber import Transcriber

HOSTS = ["127.0.0.1", "localhost"]
BLOCK = 1 << 20  # values, of all channels, that are decoded at once


@dataclass(frozen=True)
class Limits:
    """What an upload may cost.

    max_seconds:      of audio
    max_megabytes:    of the upload, in 10^6 bytes
    max_waiting:      uploads that wait while one is transcribed
    max_wait_seconds: for the upload and until its turn
    """

    max_seconds: float
    max_megabytes: float
    max_waiting: int
    max_wait_seconds: float


def listen(port: int) -> socket.socket:
    """Return a socket that listens at a port of 127.0.0.1; port 0 takes a free one."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(
            f"port={port}: it cannot be used on 127.0.0.1 ({os.strerror(error.errno or 0)}); give another, or "
            "port=0 for a free one"
        ) from error


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, which is raised again at the end."""
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", ws="none", server_header=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])


def make_app(transcriber: Transcriber, limits: Limits, title: str) -> FastAPI:
    """Return the application: the page at /, its settings at /about, and POST /transcribe.

    POST /transcribe takes the bytes of an audio file and returns the transcript as JSON; an error is a status code and
    a sentence in `detail`. One upload is transcribed at a time. Uploads are kept in memory, never on disk.

    title: shown on the page; what is transcribed with
    """
    app = FastAPI(openapi_url=None)
    # A page of another site can make its own name lead here, but not change the Host that the browser sends.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    html = files("asr.transcription").joinpath("page/index.html").read_text(encoding="utf-8")
    headers = page_headers(html)
    about = {"title": title, "max_seconds": limits.max_seconds, "max_megabytes": limits.max_megabytes}
    turn = asyncio.Lock()
    inside = 0

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    @app.get("/about")
    async def settings() -> dict[str, Any]:
        return about

    @app.post("/transcribe")
    async def transcribe(request: Request) -> dict[str, Any]:
        nonlocal inside
        if (origin := request.headers.get("origin")) and origin != f"http://{request.headers['host']}":
            raise HTTPException(403, "Only the page of this server may send recordings to it.")
        if inside > limits.max_waiting:
            raise HTTPException(503, f"{inside} recordings are before yours, and no more can wait: try again shortly.")
        inside += 1
        try:
            async with asyncio.timeout(limits.max_wait_seconds):
                content = await read_body(request, limits)
                await turn.acquire()
            try:
                return await asyncio.to_thread(transcribe_bytes, transcriber, content, limits.max_seconds)
            finally:
                turn.release()
        except TimeoutError as error:
            reason = (
                f"It was not your turn within {limits.max_wait_seconds:g} s: the server is busy or the upload slow."
            )
            raise HTTPException(503, reason) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The upload was broken off.") from error
        finally:
            inside -= 1

    return app


def page_headers(html: str) -> dict[str, str]:
    """Return the headers under which a browser runs the page's own scripts and styles only, and sends nothing away."""

    def hashes(tag: str) -> str:
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in contents)

    policy = (
        f"default-src 'none'; script-src {hashes('script')} blob:; style-src {hashes('style')}; connect-src 'self'; "
        "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the bytes of an upload; HTTPException if there are none, or too many whatever its Content-Length says."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limits.max_megabytes * 1e6:
            raise HTTPException(413, f"The file is larger than {limits.max_megabytes:g} MB (max_megabytes).")
    if not content:
        raise HTTPException(400, "The file is empty.")
    return bytes(content)


def transcribe_bytes(transcriber: Transcriber, content: bytes, max_seconds: float) -> dict[str, Any]:
    """Return the transcript and the spectrogram of an audio file, for JSON; HTTPException if it cannot be used."""
    features = transcriber.recognizer.features
    samples, rate = read_audio(content, max_seconds)
    if rate != features.sample_rate:
        samples = soxr.resample(samples, rate, features.sample_rate)
    try:
        transcript = transcriber.transcribe(samples, features.sample_rate)
    except InputError as error:
        raise HTTPException(400, f"The recording cannot be transcribed: {error}.") from error
    log_mel = features(torch.from_numpy(samples)).numpy()
    return {
        "text": transcript.text,
        "seconds": transcript.seconds,
        "words": [word._asdict() for word in transcript.words],
        "n_best": [hypothesis._asdict() for hypothesis in transcript.n_best],
        "spectrogram": {
            "bins": len(log_mel),
            "frame_seconds": features.hop_samples / features.sample_rate,
            "levels": b64encode(levels(log_mel)).decode(),
        },
    }


def read_audio(content: bytes, max_seconds: float) -> tuple[np.ndarray, int]:
    """Return the samples (N,) of an audio file, mixed down, and their rate; HTTPException if it cannot be used."""
    try:
        with soundfile.SoundFile(BytesIO(content)) as audio:
            rate = audio.samplerate
            if rate not in SAMPLE_RATES:
                low, high = SAMPLE_RATES[0], SAMPLE_RATES[-1]
                raise HTTPException(400, f"The sample rate is {rate:,} Hz; it must be {low:,} to {high:,} Hz.")
            blocks: list[np.ndarray] = []
            for block in audio.blocks(max(1, BLOCK // audio.channels), dtype="float32", always_2d=True):
                blocks.append(block.mean(1))
                if sum(map(len, blocks)) > max_seconds * rate:  # a header may declare fewer samples than there are
                    raise HTTPException(413, f"The recording is longer than {max_seconds:g} s (max_seconds).")
    except soundfile.LibsndfileError as error:
        raise HTTPException(415, f"This is no audio that can be read here ({error.error_string})") from error
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if not len(samples):
        raise HTTPException(400, "The file has no samples.")
    if not np.isfinite(samples).all():
        raise HTTPException(400, "The file has samples that are not finite numbers.")
    return samples, rate


def levels(log_mel: np.ndarray) -> bytes:
    """Return a spectrogram (F, T) as bytes, row by row: 0 at its lowest hundredth, 255 at its highest thousandth."""
    low, high = np.quantile(log_mel, [0.01, 0.999])
    return np.rint(np.clip((log_mel - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8).tobytes()
