"""Faults in a federation of real processes, and attacks on a simulated one.

Run `python -m simulations.faults.table`, `.random_kills`, `.kinds` or `.poisoning`.

| module             | what it is for                                                         |
|--------------------|------------------------------------------------------------------------|
| table              | inject every fault in turn, and print the observations                 |
| random_kills       | kill random processes during a run                                     |
| kinds              | every kind of model end to end, without a fault                        |
| poisoning          | one attacker's effect on a warm start, by aggregation rule             |
| injection          | inject one fault, and observe its consequences                         |
| process_faults     | kills, a cut network, a node that is away                              |
| admission_faults   | forbidden paths, an unregistered node, a revoked key                   |
| node_faults        | a changed bundle, a full disk, false replies                           |
| certificate_faults | an expired certificate                                                 |
| false_replies      | the false training replies of a partner                                |
| kill_points        | deaths of nodes at stated steps of a sum                               |
| changed_code       | a copy of the packages in which a node answers otherwise               |
| deployment         | a coordinator and its partners' nodes as processes                     |
| processes          | patterns of their command lines, and how to find them                  |
| link               | the network link between partners and coordinator                      |
"""
