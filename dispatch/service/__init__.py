"""What dispatch can do, in words of the domain: called by consumers and roles, it asks the store, moves frames out."""
