"""The partner's console: a local web page about the partner's own node. Nothing here is sent.

- `run`: starts and stops it; where it may listen.
- `access`: who may look: token, session, Host, Origin; what a browser may do with a page.
- `app`: its pages and actions. `templates`: makes HTML of them, from `pages/` and `assets/`.
- `accounts`: what left, and what is left, from the ledger; `account_pictures` draws it.
- `desk`: model, data and home model, loaded in the background.
- `trial`: recommendations to look at: users, titles, histories, the home blend.
- `jobs`: work in the background with progress: `evaluating` and `checking`.
- `health`: the state of the node and of serving, and what to do next.
- `drawings`: pictures, as SVG without style attributes.

No module that answers a coordinator imports this room (`tests/test_layering.py`).
"""
