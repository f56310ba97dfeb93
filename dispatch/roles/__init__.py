"""The background duties of an instance: each looks at the store once per turn and tells the service what it found."""
