"""python -m asr.demo: a page on this machine that transcribes the microphone and files.

python -m asr.demo checkpoint=outputs/runs/quickstart/best.pt
"""

from dataclasses import replace

from omegaconf import DictConfig

import asr
from asr.cli import entry_point
from asr.config.build import build_compute, build_decoder, require_checkpoint
from asr.console import console
from asr.settings import GROUP, POSITIVE, STRING, Rules, check, whole
from asr.transcription.server import Limits, listen, make_app, serve

RULES: Rules = {
    "decode": GROUP,
    "checkpoint": STRING,
    "port": whole(0, 65_535),
    "device": STRING,
    "max_seconds": POSITIVE,
    "max_megabytes": POSITIVE,
    "max_waiting": whole(0),
    "max_wait_seconds": POSITIVE,
}


@entry_point("demo")
def main(config: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    require_checkpoint(config)
    check(config, RULES)
    with listen(config.port) as listener:
        device = build_compute(config.device, "float32").device
        transcriber = asr.load(config.checkpoint, device=str(device))
        transcriber = replace(transcriber, decoder=build_decoder(config.decode, transcriber.recognizer.alphabet))
        limits = Limits(config.max_seconds, config.max_megabytes, config.max_waiting, config.max_wait_seconds)
        app = make_app(transcriber, limits, title=config.checkpoint)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        console.print(f"Open {address} in a browser; Ctrl-C ends it.", soft_wrap=True)
        serve(app, listener)


if __name__ == "__main__":
    main()
