"""Evaluation of recommendations on exact data: for public benchmarks and for use at home.

ranking   ranks of held-out items over the whole catalogue; HR, NDCG, MRR and coverage
exposure  popularity bias of top-k lists: ARP, Gini index, exposure by popularity decile
propensity  what is learned from choices, corrected for the positions that were looked at
"""
