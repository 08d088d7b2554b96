"""Sections of the page: figure, takeaway and table together.

| module          | what it is for                                                            |
|-----------------|---------------------------------------------------------------------------|
| section         | what a section consists of                                                |
| privacy         | the spent budget, audits, membership inference                            |
| attack          | crafted histories, and changes of single events                           |
| trade_offs      | what accuracy is given up for: groups, rare items, other lists            |
| kinds           | kinds of model side by side, and which to take                            |
| recommendations | utility against ε, models, gains, groups of users, exposure               |
"""
