"""Differential privacy: noise, sampling, clipping, and what releases cost. No files, no messages.

release     the parameters of noised sums that an accountant needs
noise       the random source and the noised sum
sampling    Poisson samples of users
clipping/   per-user gradients, clipped without being materialised
accounting/ the ε of releases, and the noise that a budget requires
"""
