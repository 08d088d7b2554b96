"""Tables of items and interactions, read and checked, and the histories made of them.

tables          any .csv or .parquet file as columns of text
interactions    rows of text as checked (user, item, time) events
reading         interactions files as one history per user: what is refused, dropped and kept
histories       the histories themselves, and the leave-one-out split
catalogue       the public item list with its features and fingerprint
feature_source  how a catalogue's features were computed
"""
