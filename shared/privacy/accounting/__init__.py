"""Accounting: the ε of releases, and the noise that a budget requires.

accountant   ε of releases together; noise and steps that fit a target
composition  numerical composition of privacy losses on a grid: the bound that is reported
renyi        Rényi divergences: a cheaper and looser bound
selection    ε of releasing only the best of several runs
"""
