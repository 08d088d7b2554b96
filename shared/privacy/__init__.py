"""Differential privacy: noise, sampling, clipping, and what releases cost. No files, no messages.

release            the parameters of noised sums that an accountant needs
noise              the random source and the noised sum
discrete_gaussian  exact samples of the Gaussian on the integers
distributed_noise  what a sum reveals where each organisation adds a share of one noise
noise_share        an organisation's sum on the grid, with its share of the noise
sampling           Poisson samples of users
clipping/          per-user gradients, clipped without being materialised
accounting/        the ε of releases, and the noise that a budget requires
"""
