"""The recommender, its item features, and the count models it is measured against."""
