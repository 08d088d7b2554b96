"""What programs need of the operating system.

- `files`: every durable write.
- `locks`: locks between processes.
- `supervise`: keeps programs running and stops them together.
- `health_server`: /healthz, /readyz and /metrics over HTTP.
- `command_line`: errors, exit codes, consoles and JSON of every command.
- `pictures`: what `--plot` writes.
- `address`: host and port.
"""
