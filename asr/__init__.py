"""Train and compare recurrent CTC speech recognisers. Entry points: python -m asr.train, asr.evaluate, asr.prepare."""

import gc

# Imports and a corpus make millions of objects that stay. By default they are searched again after every 700 new ones,
# a second and a half of a start. A training step leaves some forty to be found, and no tensor among them.
gc.set_threshold(100_000)
