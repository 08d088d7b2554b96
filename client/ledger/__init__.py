"""The privacy ledger: every release of this site and what they cost together, never forgotten.

ledger       the ledger itself: ask, charge, keep an answer, verify
limits       what all releases together may cost
store        the SQLite file: tables, lock, first entries
balance      what a chain of entries adds up to, checked entry by entry
anchor       a small file elsewhere that tells whether the ledger is the newest
outbox       the answers that left, and the bodies kept for repeated requests
refusals     counts of refusals, so that they take bounded room
register     which ledger is whose on this machine: no second one of the same users
recovery     restore a ledger from its anchor, or write the budget off
app_version  fingerprint of the code that this node runs, noted in every entry
"""
