"""Measuring a sweep: lanes side by side in one kernel, interleaved rounds of short blocks.

    sweep.main (the job's entry) ─► session: lanes built ─► started ─► rounds of blocks ─► results
                                          │                    │            │
                                        lane ─► LiveCluster  probe     meters, gate, load.control

Runs inside the sandbox or the guest and speaks to the launcher through a line (`launcher`). Must not analyse:
what it records is raw.
"""
