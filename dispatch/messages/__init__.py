"""What goes over the wire and between instances: bytes come in and become frozen structs, structs go out as bytes."""
