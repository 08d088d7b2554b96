"""One page about a run, an audit or a sweep, for who has read nothing else.

`folders` reads what was written, `numbers` computes what is shown, `words` says it, `figures` draws
it, `page` puts it together, and `command` is what the user types.
"""
