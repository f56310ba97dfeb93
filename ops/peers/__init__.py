"""Reference peers: a node, a session and a crowd of both, speaking only the public protocol.

They import nothing from dispatch, so they can be copied as they are into a project that talks to linguasched: a command
(or your program) -> node | session | load -> wire. `audio` and `speech` know about sound, never about sockets.
"""
