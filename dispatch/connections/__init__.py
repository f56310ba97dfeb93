"""What one open socket knows (pure): the service feeds it messages and answers, and does what it decides."""
