"""Public item features: computed from the catalogue, without any user's data.

tfidf           words, genres and decades as vectors, by latent semantic analysis
encoder         text embeddings from a frozen pretrained encoder
media_encoder   pictures, sound and video, from a frozen pretrained encoder
relations       what is known of items, by a relational embedding
encoder_source  an encoder's files: located, checked and fingerprinted
frozen_encoder  loads one, and what prepares its input
adaptable       an encoder's last blocks, kept with the catalogue for the kind "text"
whitening       dimension reduction and scaling, used by both
"""
