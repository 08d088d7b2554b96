"""Read and check the files of a run, an audit or a sweep.

| module | what it is for                                                                     |
|--------|------------------------------------------------------------------------------------|
| fields | fields of a JSON file, with errors that name them                                  |
| runs   | result.json, config.toml and evaluation.parquet of a run                           |
| audits | audit.json                                                                         |
| sweeps | sweep.toml and sweep.parquet                                                       |
"""
