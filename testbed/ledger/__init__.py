"""The cost ledger: where the instructions of one connection and of one request go.

    job (in the guest) ─► blocks with each process's account ─► ledger.json ┐
                       ├► the same blocks, functions traced  ─► traces      ├─► account ─► render
                       └► rules, a hop, bytes                ─► ledger.json ┘

Measures and accounts; the launcher is `testbed.lab.ledger`. What is recorded is raw: all sums are made
outside of the guest.
"""
