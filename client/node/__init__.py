"""The processes of a partner's node.

- `up`: starts SuperNode and executor, keeps them running, and stops them together.
- `processes`: their commands, users and environment.
- `supernode`: Flower's SuperNode, with its faults in reconnecting and delivering corrected.
- `executor`: gives each request to a process of its own.
- `worker`: answers one request: verifies the app bundle, then runs the vetted copy.
- `task`: a request and its reply, as the SuperNode hands them out and takes them.
- `health`: /healthz, /readyz and /metrics.
- `prometheus`: the metrics, read from the ledger and the processes.
"""
