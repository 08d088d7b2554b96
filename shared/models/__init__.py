"""The recommender, its training losses, and the count models that it is compared with.

registry    the kinds of model that `model.kind` names, and where each is
attention   the recommender: causal self-attention, scored over the whole catalogue
blocks      its layers: attention and feed-forward
item_scores   its layers of items: public features, and scores
pretrained  the same behind the interface of transformers, for code that loads models with it
lstm        a recurrence over the history, with attention for every candidate item
query       what a user looks for in words: two towers over the scores of the first
social      friends, weighed by two numbers that are learned, beside the first
modalities  blocks of features, a learned gate for each, over the first
gates       what those gates weigh, read from a file
query_text  words of queries and items, hashed and matched
text        the item is its text: an encoder that users adapt
text_blocks  that encoder's last blocks with adapters of low rank
attention_config   its configuration, and sizes that follow from it
losses      cross-entropy per user, over the catalogue or over drawn candidates
frozen      weights that no message carries, drawn alike everywhere, and their fingerprint
dropout     dropout whose masks may be given, user by user
augmentation  histories cropped, masked or reordered in training
products    matrix products in which each user's part is rounded alike, whatever its row
moments     the two statistics of a warm start: item popularity and a transition moment
outer_products   the sum over users of normalised outer products, as one matrix product
counts      popularity and first-order Markov baselines; item counts with and without noise
recent_counts   counts over the last three events
influence   how much one user adds to exact counts at most
item_knn    item-based nearest neighbours
ease        a linear item-to-item model with a closed form
offsets     the scale of items' offsets
popularity  the popularity in a model's offsets, and scores without a part of it
new_items   offsets of items that are new to training, from their features
shapes      models without numbers, for the shapes of their weights
complete_weights   refuse a model file that does not hold exactly the model's tensors
"""
