"""Timings, memory and errors, each a script: `python -m simulations.benchmarks.NAME`.

| module       | what it measures                                                             |
|--------------|------------------------------------------------------------------------------|
| private_step | the private training step against the plain one                              |
| training_step | the same through the trainer, and against an earlier version                |
| statistics   | the statistics of a warm start, against an earlier version                   |
| measuring    | measuring the models of a simulation, against an earlier version             |
| noise        | cryptographic noise against torch's generator                                |
| correlated_noise | noise that is correlated over rounds against independent noise (errors) |
| accounting   | the accountant                                                               |
| secure_aggregation | time, bytes and memory of a round of secure aggregation              |
| ledger       | the ledger at many entries                                                   |
| sources      | reading interactions from files and databases                                |
| executor     | starting a ClientApp                                                         |
| serving      | latency and throughput of `sotto-node serve` on one core                    |
| rerank       | choosing a list of ten from 200 candidates, by each method                   |
| batch        | `sotto-node recommend` for a million users, killed and started again         |
| day/         | a day of a partner that serves: clicks, adaptations, a federated run, kills |
| wellbeing/   | a simulated month of the wellbeing guard: hours of use, and NDCG            |
| query        | how well a film is found by words, with the user and without, beside BM25    |
| cold_items   | how well cold items are told from one another by their text, over several runs |
| text_alone   | what a sequence model over items' text alone reaches without privacy         |
| central      | what a kind of model reaches without privacy, all users in one place         |
| cross_domain | what organisations of one domain reach without those of others               |
| modalities   | what words, genres, years and relations add, each without privacy           |
| friends      | what friends bring at home, with real friends and shuffled ones              |
| memory       | the memory allocator                                                         |
| hostile_search | searches for weights with which one user exceeds the clip norm             |
"""
