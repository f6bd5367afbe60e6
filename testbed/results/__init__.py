"""The format of a run's results: what is written where, and how it is read back.

Knows nothing of how blocks are measured or analysed. `run.json` says what was run, `blocks.jsonl` holds
one line a block, `lanes.jsonl` one line an event of a lane's control plane, `balance.jsonl` one line a
measured distribution over endpoints, `samples.bin` raw samples in nanoseconds.
"""
