"""The user's side of the lab: handles that start a kernel, speak to what runs in it, and show it.

Nothing here runs inside the sandbox, except `agent`, which answers the handle's requests there.
"""
