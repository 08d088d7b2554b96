"""The partner's interactions: where they are stored, and how they are read.

config        the [data] table of site.toml
sources       the source that it names, read as histories
databases     rows of PostgreSQL, SQLite or another database, through SQLAlchemy
feedback      the store of what users were shown and did
interactions  its events that count as interactions
object_store  tables in an object store that speaks S3
queries       the table of what users asked for in words
user_columns  what the table of users says of each, for public groups
credentials   secrets from a private file or the environment, never from site.toml
"""
