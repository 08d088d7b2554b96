"""The model at work: recommendations for one's own users. Nothing here is sent to a coordinator.

- `published`: loads a published folder: catalogue and model.
- `recommender`: scores, filters and ranks the catalogue for histories.
- `named_items`: items by public id, list and category.
- `batch`: recommendations for many users, into one file, in blocks; a killed run goes on.
- `guarded`: what lists of protected users are chosen from, and those of a file.
- `quality`: how good a published folder is on the partner's own held-out events.
- `onnx_export`: the published model's scorer as ONNX.
- `histories`: each user's own history, by user, with feedback at once.
- `service/`: `sotto-node serve`: the same over gRPC and HTTP, and feedback.
- `candidates`: the best items of one history, from a few candidates with exact scores.
- `last_state`: the model's state after one history, without torch.
- `item_vectors`: a model's scores as products of a query with one vector an item.
- `quick_scores`: the highest scores of histories over a large catalogue, from bytes.
- `choices`: how good models are by what users chose of what was shown, corrected for positions.
- `query_words`: what the words of a query say of every item.
- `block_scores`: what each modality of an item's features brings to its score.
- `item_index`: an approximate index of a large catalogue.
- `smoothed`: scores as the mean over random deletions, which one event moves little.
- `probabilities`: scores of histories as probabilities.
- `explanation`: which past events brought an item, and how much popularity, federation and home.
- `explaining`: computes it, event by event.

No module that answers a coordinator imports this room (`tests/test_layering.py`).
"""
