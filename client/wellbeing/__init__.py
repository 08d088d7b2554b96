"""The wellbeing guard: what users at risk of over-use are shown less of. Nothing of it is sent.

- `guard`: the decision, from candidates, risk, session, policy and time alone.
- `engagement`: how engaging each item is, from the partner's own sessions.
- `sessions`: each protected user's session so far.
- `tables`: who opted in or out, and which items are finite.
- `protection`: all of it for a site: whom it protects, and each list's decision with its reasons.

The policy is `client.site.wellbeing`. No other room reads a risk (`tests/client/wellbeing/`).
"""
