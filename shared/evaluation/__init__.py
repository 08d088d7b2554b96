"""Evaluation of recommendations on exact data: for public benchmarks and for use at home.

ranking   ranks of held-out items over the whole catalogue; HR, NDCG, MRR and coverage
paired    figures of single users; whether two models differ on the same ones
exposure  popularity bias of top-k lists: ARP, Gini index, exposure by popularity decile
calibration  groups of items in a list, as the user chose them
group_figures  how well each public group is served, with intervals
diversity  how unlike the items of a list are
classification  how well a risk tells two groups of users apart, and its calibration
reordering   what another order of the first candidates does to ranks
propensity  what is learned from choices, corrected for the positions that were looked at
"""
