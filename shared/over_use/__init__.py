"""The risk of over-use, estimated from when a user was active.

sessions     sessions of one user's event times, and bounded features of the last of them
labels       who over-used: from a column that a partner holds, or by a rule on later events
examples     features and labels of users, as a run's public constants say
kind         the model as one of the kinds that a run may train
model        attention over sessions -> one logit -> a calibrated risk
calibration  Platt scaling on held-out users, and the threshold of a decision
"""
