"""Users who craft their histories to push an item or to bury it, and how far they come.

| module      | what it is for                                                                   |
|-------------|----------------------------------------------------------------------------------|
| plan        | the size of the measurement, and the kinds of attacks                            |
| targets     | items to push or bury: rare, middle and popular ones                             |
| crafted     | the histories of each attack, and what a partner's limits leave of them          |
| victims     | how often, and how high, other users are shown an item                           |
| attacked    | the federated model, the home model and the blend, trained on crafted histories  |
| attack      | all of it: every attack with and without the defence, and attack.json            |
| evasion     | small changes of one history that flip its list, and the smoothed scorer         |
| command     | `attack`                                                                         |

Not to be confused with `audit`, which attacks the promise of privacy, nor with
`simulations.faults.poisoning`, where a partner sends false sums.
"""
