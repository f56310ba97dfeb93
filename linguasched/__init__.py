"""The composition root: settings, configuration, logs, the private Redis, and the doors that ASGI and HTTP come in by.

It puts `ops`, `pools` and `dispatch` together; nobody imports it.
"""
