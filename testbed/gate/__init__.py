"""The gate: whether a mode's cost per connection is still what it was, by the instruction clock.

    plan ─► (a run in one boot) ─► control: identical lanes agree, ten injected rules are seen
                                └► baseline: each mode's cost beside the committed one ─► verdict ─► render

Judges a run that has been measured, and renders what it finds. Must not start anything: `testbed.lab.gating`
does.
"""
