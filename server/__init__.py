"""The coordinator: it runs rounds with the partners and publishes the model.

- `app`: the Flower ServerApp: warm start, rounds, checkpoint after each.
- `noise_plan`: the noise that a run asks for, from its settings alone.
- `training_plan`: the rounds that noise of that size allows, from public constants alone.
- `rounds/`: asking participants, checking replies, quorum, retries.
- `aggregation/`: robust rules, quorum, the server's optimiser.
- `warm_start/`: noised statistics and public interactions become the first weights.
- `state/`: checkpoint, status, audit log, the lock of a run's folder.
- `runs/`: starting, resuming, following and publishing runs.
- `service/`: the processes of a coordinator: proxy, certificates, registered partners, metrics.
- `commands/`: the subcommands of `sotto-server`; `cli` puts them together.
- `settings`: `server.toml`. `logs`: the coordinator's log.
- `flower_internals`: all that is not Flower's public interface.
- `deploy/`: templates for systemd, containers, Kubernetes, nginx and Grafana.
"""
