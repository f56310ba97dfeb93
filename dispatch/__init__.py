"""Who holds which socket, where each job stands, what waits.

Data goes one way: frame -> consumer -> service -> store (one Lua call) -> inbox, or straight to the switchboard when
the socket is here -> frame. Other apps import `dispatch.api` only.
"""
