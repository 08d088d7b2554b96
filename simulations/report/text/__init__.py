"""The sentences of the page.

| module       | what it is for                                                               |
|--------------|------------------------------------------------------------------------------|
| claim        | the privacy claim, its limits, and the headline figures                      |
| takeaways    | sentences computed from the numbers                                          |
| explanations | fixed texts: introductions, how to read each figure, why one is missing      |
"""
