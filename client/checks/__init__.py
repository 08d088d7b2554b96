"""What `sotto-node check` examines, one module for each part of a site.

- `preflight`: all checks in their order, and the exit code.
- `base`: the types of a check and of its verdict.
- `files`: permissions of the site's files, and the version of Flower.
- `data`: the catalogue and the private interactions.
- `groups`: the table of users, by which public groups are told apart.
- `privacy`: the ledger, its anchor, and the rest of the budget.
- `roster`: the aggregation key, and whether answers can be masked with the roster.
- `app`: the app that the node would run, and as which user.
- `machine`: device, memory, disk, file system and the port of the node's own processes.
- `connection`: certificate, connection, TLS, clocks, and whether the key is accepted; `handshake`
  makes the connection, `registration` asks about the key.
"""
