"""Commands of sotto-lab that have no room of their own, and what all its commands share.

| module           | what it is for                                                           |
|------------------|--------------------------------------------------------------------------|
| simulate         | `simulate` and `prepare`                                                 |
| print_simulation | print the data and the result of a simulation                            |
| fairness         | `fairness`: groups and rare items under logit adjustment                 |
| print_groups     | print how well public groups are served                                  |
| rerank           | `rerank`: what each order of lists costs, on a finished run              |
| accountant       | `accountant`: solve for noise, steps or ε                                |
| items            | `items encode`: compute item features                                    |
| join_items       | `items join`: the union of catalogues                                    |
| pretrain         | the former `pretrain`: say that `sotto-server pretrain` replaces it      |
| fetch            | `data fetch`: download a data set                                        |
| settings         | list every setting with its default and meaning                          |
| options          | command-line options that several commands share                         |
| progress         | progress bars of a simulation                                            |
"""
