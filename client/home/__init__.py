"""What a partner does at home with the federated model: never sent, and exact unless it is private.

- `home_model`: the partner's own transition counts, with the federated model as their prior.
- `local_attention`: an attention recommender that is trained on the partner's own data.
- `adapt`: chooses its numbers on the partner's own held-out events.
- `friends`: what users' friends chose, as a part of the score; whether it is worth it.
- `friends_part`: the same as a home model holds it.
- `evaluate`: how good models are on held-out events, beside what is there without them.
- `private`: the same from noised sums, which hide the partner's users from one another.
- `store`: the folder that an adapted model is kept in.

No module that answers a coordinator imports this room (`tests/test_layering.py`).
"""
