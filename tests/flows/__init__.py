"""Stories through real sockets: server processes, a real Redis, and peers that send frames exactly as they mean them.

`instances` runs the servers, `peers` are the raw nodes and sessions, `stage` brings both together for one story.
"""
