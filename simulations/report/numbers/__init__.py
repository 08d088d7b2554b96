"""Compute what the page shows.

| module  | what it is for                                                                    |
|---------|-----------------------------------------------------------------------------------|
| shares  | shares of users, their intervals, and tests of their differences                  |
| users   | shares by organisation, activity and group                                        |
| privacy | ε after each release, and the limit that it sets to an attack                     |
"""
