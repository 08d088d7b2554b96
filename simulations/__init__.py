"""The lab, `sotto-lab`: simulations and measurements. It imports every package; none imports it.

| room       | what it is for                                                                |
|------------|-------------------------------------------------------------------------------|
| cli        | the command `sotto-lab`                                                       |
| commands   | its smaller commands, and the options that all share                          |
| datasets   | read, download and encode public data                                         |
| experiment | one simulated federation: settings, sites, training, baselines, result.json   |
| over_use   | the model of over-use risk: invented users, federated training, figures       |
| sweep      | many simulations: grids and searches                                          |
| calibrate  | what a privacy budget allows, before any data is read                         |
| audit      | attack a run, and compare the result with its privacy claim                   |
| attack     | users who craft their histories, and how far they move what others are shown  |
| report     | one HTML page about a run, an audit or a sweep                                |
| faults     | real processes that are killed, cut off or given false replies                |
| benchmarks | timings                                                                       |
| recipes    | settings for the published figures                                            |
"""
