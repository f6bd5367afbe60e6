"""The format of a run's results: what is written where, and how it is read back.

Knows nothing of how blocks are measured or analysed. `run.json` says what was run, `blocks.jsonl` holds one
line a block, `lanes.jsonl` one line a control-plane event of a lane, `samples.bin` raw samples in nanoseconds.
"""
