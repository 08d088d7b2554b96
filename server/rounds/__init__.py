"""Ask all organisations, wait for their replies, check and collect them.

- `strategy`: Flower's Strategy; translates between its messages and the modules below.
- `collection`: asking, retries, quorum and outcomes, for rounds, statistics and evaluations alike.
- `secure_collection`: the same under secure aggregation: the sum of the answers, and no answer.
- `secure_sum`: one attempt at such a sum, in five steps.
- `parts`: the equal part of a sum that each organisation counts with.
- `affordability`: whether all can pay for the whole run, before any is charged.
- `collection_report`: how each organisation counts in a collection, and why.
- `requests`: what is asked in each of these.
- `replies`: checks of every kind of reply, before any arithmetic.
- `statistics`: the sums of a warm start's statistics.
- `evaluation`: metrics from noised sums.
- `groups`: a measurement of public groups, and the figures that follow from it.
- `group_weights`: what groups count in the next rounds, by these figures.
- `participants`: which organisations take part.
- `grid`: Flower's Grid with deadlines, late replies and nudges.
- `fetching`: downloads of replies, each on its own.
"""
