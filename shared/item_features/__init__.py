"""Public item features: what describes an item without any user's data.

tfidf           words, genres and decades as vectors, by latent semantic analysis
encoder         text embeddings from a frozen pretrained encoder
encoder_source  an encoder's files: found, checked and fingerprinted
whitening       dimension reduction and scaling that both share
"""
