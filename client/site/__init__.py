"""A partner's site: the folder with its site.toml, key and ledger.

- `site`: site.toml as a whole, and the paths that it names.
- `policy`, `roster`, `coordinator`, `node`, `serve`, `home`, `wellbeing`: tables of these names.
- `bounds`: what a request may ask at all: shapes, weights, memory, size of an answer.
- `charges`: what a request is charged as in the ledger, and the requests that a run will make.
- `simulated`: the [lab] table, with which the lab marks its own sites.
- `locate`: which site a node serves.
- `template`: the site.toml that a new site begins with.
- `setup`: creates a site: folder, key, ledger, anchor and site.toml.
- `keys`: the node's key pair, and how a key pair is stored.
- `aggregation_key`: the key that it signs with under secure aggregation, and whom it believes.
- `peers`: adds organisations to [roster.peers], and removes them.
- `lock`: one site has one node.
- `local_port`: the port of 127.0.0.1 at which the node's own processes meet.
- `statement`: what the ledger says was spent and what is left, by run and over time.
- `user_count`: notices that many users came or went since the data was last read.
- `source`: a source before there is a site: its files and columns.
- `own_data`: the interactions, a site's or a file's, for what is done with them at home.
- `over_use`: users as examples of the model of over-use: own events, own labels.
- `reading`: its data and catalogue for an answer, read once while they stay the same.
- `proxies`: which HTTP proxy leads to the coordinator.

The [data] table is `client.data.config`.
"""
