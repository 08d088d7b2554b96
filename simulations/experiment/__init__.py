"""One simulated federation, from data to result.json.

| module           | what it is for                                                           |
|------------------|--------------------------------------------------------------------------|
| config           | the settings of a simulation                                             |
| prepare          | read the data, assign users, hold events out, write the sites            |
| requirements     | check settings and data before anything is written                       |
| simulation       | a prepared simulation: its data, organisations and folder                |
| simulate         | run it, train the local baselines, write the result                      |
| federation       | the real apps on one machine, in this process or on Ray                  |
| partition        | assign users to organisations                                            |
| domains          | organisations with parts of the catalogue, and events on these alone     |
| hold_out         | leave-one-out or one cut in time for all, and what either lets leak      |
| public_knowledge | item features and public interactions, before a federation starts        |
| baselines        | popularity and Markov counts, with and without noise                     |
| home             | each organisation's own data at home, with the federated model and without |
| joining          | what joining brought at home, in sentences                               |
| kept_rankings    | baselines that do not depend on ε, computed once for many runs           |
| cold             | items without any training event                                         |
| evaluate         | rank the test items with every model                                     |
| curves           | curves.json: what accuracy is given up for, at several strengths         |
| kinds            | kinds.json: kinds of model side by side, and what each needs             |
| fairness         | groups and rare items under logit adjustment, on a finished run          |
| groups           | how well public groups are served, exactly and as it was released        |
| reranking        | what each order of lists costs, at several strengths, on a finished run  |
| user_ranks       | evaluation.parquet: the rank of each user's test item                    |
| result_json      | the fields of result.json; a new column goes here                        |
| result_sections  | the values of these fields                                               |
| accountants      | solve for noise, steps or ε, by several accountants                      |
"""
