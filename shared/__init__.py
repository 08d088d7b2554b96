"""What both sides must agree on; imports nothing else of ours.

- `config`: a run's settings; `sections`: how settings are declared and refused.
- `messages`: every message between coordinator and partner, typed both ways.
- `message_records`: the form of a message in Flower's records.
- `groups`: public groups of users, and in which one a user is.
- `over_use_task`: what is read of users to train the model of over-use.
- `errors`: the tree of exceptions.
- `outcomes`: how a reply counts, and the refusals that a partner may send.
- `data/`: interactions to histories; the public catalogue; tables of any file format.
- `models/`: the recommender, its losses, and count models.
- `over_use/`: the risk of over-use, from when a user was active.
- `item_features/`: public features of items from text.
- `evaluation/`: ranking quality, exposure and calibration.
- `rerank/`: another order of what is shown.
- `privacy/`: noise, sampling, clipping, accounting.
- `secure_aggregation/`: the sum of what organisations hold, of which no summand is seen.
- `system/`: locks and durable writes, processes, command lines.
- `hash_chain`: a log in which no edit goes unnoticed.
"""
