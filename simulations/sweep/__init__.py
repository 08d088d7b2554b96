"""Many simulations from one command: grids and searches.

| module      | what it is for                                                                |
|-------------|-------------------------------------------------------------------------------|
| command     | `sotto-lab sweep`                                                             |
| compare     | `sotto-lab compare`                                                           |
| comparison  | kinds of model side by side, and which to take                                |
| options     | its options                                                                   |
| print_sweep | its output: planned runs, tables, JSON                                        |
| axes        | settings that vary, and names of runs                                         |
| plan        | all runs of a sweep, stored in sweep.toml                                     |
| folder      | the sweep on disk, and the state of each run                                  |
| work        | run all runs, whatever happens to each                                        |
| workers     | processes on this machine, or tasks of a Ray cluster                          |
| space       | the search space of one setting                                               |
| search      | the options of a search                                                       |
| trials      | the trials of a search, by Optuna                                             |
| search_cost | the ε of a search, if its data were private                                   |
| table       | sweep.parquet, and means over seeds                                           |
| progress    | progress bar and lines                                                        |
"""
