"""One consumer per kind of peer: frames go to the service as messages, its answers go back as frames."""
