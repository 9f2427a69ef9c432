"""Train and compare recurrent CTC speech recognisers. Entry points: python -m asr.train, asr.evaluate, asr.prepare."""
