"""From the organisations' replies to one change, and from that to the next weights.

- `quorum`: how many replies a round needs, and how many organisations a start waits for.
- `robust`: rules that withstand attackers among the organisations.
- `optimiser`: the server's optimiser and its state.
- `natural_gradient`: a step of attention's queries that heeds how the likelihood is curved.
- `records`: conversion between our weights and Flower's records.
"""
