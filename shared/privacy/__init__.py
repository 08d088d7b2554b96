"""Differential privacy: noise, sampling, clipping, and what releases cost. No files, no messages.

release            the parameters of noised sums that an accountant needs
noise              the random source and the noised sum
discrete_gaussian  exact samples of the Gaussian on the integers
distributed_noise  sums of several organisations, each with a share of one noise
sampling           Poisson samples of users
clipping/          per-user gradients, clipped without being materialised
accounting/        the ε of releases, and the noise that a budget requires
"""
