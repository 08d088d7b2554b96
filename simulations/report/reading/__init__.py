"""Read and check the files of a run, an audit or a sweep.

| module    | what it is for                                                                  |
|-----------|---------------------------------------------------------------------------------|
| documents | JSON files by their schema, with errors that name the field                     |
| runs      | result.json, config.toml and evaluation.parquet of a run                        |
| audits    | audit.json                                                                      |
| attacks   | attack.json                                                                     |
| curves    | curves.json                                                                     |
| sweeps    | sweep.toml and sweep.parquet                                                    |
"""
