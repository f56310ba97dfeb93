"""One module per ASGI server: consumers learn there what is buffered, ping, and close; nothing flows back up."""
