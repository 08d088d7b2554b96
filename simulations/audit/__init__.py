"""Attack a run with canaries, and compare what can be proved with its privacy claim.

| module                 | what it is for                                                     |
|------------------------|--------------------------------------------------------------------|
| command                | `sotto-lab audit`                                                  |
| audit                  | run the pipeline with canaries and write audit.json                |
| plan                   | the size of an audit, and which runs can be audited                |
| canaries               | synthetic users and the coins that decide who is in                |
| recorder               | record the answers that leave the sites                            |
| replay                 | compute what given users add to a release                          |
| observers              | score how strongly each canary is present in what left             |
| hostile                | ask sites as a hostile coordinator, many canaries at a time        |
| transcripts            | record the messages of secure aggregation                          |
| unmasking              | take off the masks that an adversary can compute                   |
| sums                   | attack what comes out beneath the masks                            |
| crafted                | weights for which a release is each canary's own number            |
| epsilon_bounds         | bounds and estimates of ε from guesses and scores                  |
| pooled_bound           | bound of ε from guesses about many independent releases            |
| verdict                | observers' figures, reasons for a violation, limitations           |
| independent_accounting | compare each ledger with another accountant                        |
| membership             | membership inference on the published model                        |
| planted_faults         | audit pipelines with a planted fault (a script)                    |
| masking_faults         | faults of secure aggregation for it                                |
"""
