"""The inside of the API server: what is admitted, how objects are changed and shown.

Nothing here knows HTTP connections or processes.
"""
