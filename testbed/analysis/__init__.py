"""From a run's records to tables: pure functions, a `Run` in, tables out.

    read_run ─► rounds (pairing) ─► effects, scaling, balance ─► findings ─► comparison ─► tables ─► report
                           statistics ┘

Must not measure, and must not pool requests of different rounds: the round is the unit of every interval.
"""
