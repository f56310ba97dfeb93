"""For those who run it: API, console, credentials and tools ask `dispatch.api` and read `pools`; nobody imports ops."""
