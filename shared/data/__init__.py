"""Tables of items and interactions, read and checked, and the histories made of them.

tables          files as columns of text: .csv, .tsv and .parquet, and folders of them
csv_files       the separator and the faults of a CSV file
columns         the columns to read, and what to say where they are missing
ids             one canonical form of ids; spellings of a missing value
times           times, read exactly or refused
interactions    rows of text as checked (user, item, time) events
reading         interactions files as one history per user: what is refused, dropped and kept
event_limits    how fast a user's events count; repeats
summary         what reading found: dropped and merged rows, ties, doubts
histories       the histories themselves
queries         what users asked for in words, and where that stands in their histories
splits          events held out for validation and test: leave-one-out, and by time
friends         who is whose friend, for what a partner does at home
relations       a public table of what is known of items
catalogue       the public item list with its features and fingerprint
feature_source  how a catalogue's features of text were computed
feature_blocks  which columns of the features are of which modality
adaptable_text  an encoder's last blocks, and the items' tokens before them
domains         parts of a catalogue, and what an organisation that has only some of them ranks
model_folder    the files of a saved model: its shape, and its weights by name
"""
