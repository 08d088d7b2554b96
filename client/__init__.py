"""A partner's node: it answers the coordinator's requests within the partner's own limits.

- `app`: the Flower ClientApp: message, guard, computation, reply.
- `guard`: admits or refuses each request, charges the ledger, repeats kept answers.
- `secure_aggregation/`: the steps of a sum whose parts nobody sees, and their state on disk.
- `ledger/`: what was released and what it cost; what left; how a broken ledger is restored.
- `data/`: the partner's interactions where they lie: files, object stores, databases.
- `site/`: `site.toml`: who the partner is, its policy, its keys; how a site is set up.
- `compute/`: private training steps, statistics and metrics on one site's users.
- `home/`: the federated model adapted to the site's own users: exact, and never sent.
- `serving/`: recommendations from the published model and the home model, with explanations.
- `wellbeing/`: the guard that shows users at risk of over-use less: at home, and never sent.
- `library/`: the package `sotto`, the one door for a partner's own code.
- `console/`: a local web page about the node: what left, what is left, recommendations to try.
- `bundle/`: the vetted app bundle, and no other.
- `checks/`: what `sotto-node check` looks at.
- `node/`: the processes of a node, and its health and metrics.
- `commands/`: the subcommands of `sotto-node`; `cli` puts them together.
- `logs`: the node's log. `flower_internals`: all that is not Flower's public interface.
- `deploy/`: templates for systemd, containers and Grafana.
"""
