"""Data sets of the lab: where they come from, and how their files are read.

| module               | what it is for                                                       |
|----------------------|----------------------------------------------------------------------|
| load                 | read a folder of interactions and items, or the embedded data set    |
| movielens            | MovieLens's own file format and codes                                |
| recbole              | RecBole's atomic files                                               |
| groups               | public groups of users (age, gender) for the lab's figures           |
| queries              | what users asked for in words, such as MovieLens's tags              |
| organisations        | the organisation of each user, from a column of the data              |
| download             | fetch a published data set and verify its checksum                   |
| encode               | compute item features once and save them with the catalogue          |
| add_block            | one more block of features in a catalogue's folder                   |
| blocks               | features of pictures, sound, video or relations                      |
| media                | read pictures, sounds and frames that the item list names            |
| temporary_postgresql | a PostgreSQL server in a temporary folder, for benchmarks and tests  |
"""
