"""What the card of a run of the kind "over-use" says: what its score is, and what it is not.

The model is published without calibration: slope and offset are exact functions of users, so that
each partner fits them on its own, at home.
"""

from __future__ import annotations

from shared.config import RunConfig
from shared.over_use.examples import label_meaning

__all__ = ["over_use_head", "what_the_score_is"]


def over_use_head(config: RunConfig, organisations: int, version: str) -> str:
    """Return what the card of such a model begins with, below its name."""
    return f"""\
A model of the risk of over-use, trained with Sotto {version} by {organisations} organisations \
together. It reads when a user was active, in the last {config.model.max_length} sessions, and \
nothing else. `model/` holds its weights (safetensors), its shape and what it was trained to \
predict; `catalogue/` the items whose events were read. A partner's service reads this folder as \
it is: `model` under `[wellbeing]` in site.toml.

```python
from shared.over_use.model import OverUseModel

model = OverUseModel.from_pretrained("model")
model.risk([times], now=now)  # seconds since 1970, ascending; one array a user
```
"""


def what_the_score_is(config: RunConfig) -> str:
    """Return the section about what the score says, what it is not, and who may see it."""
    task = config.over_use
    present = (
        f"{task.weeks:g} weeks before {task.until}"
        if not task.after_sessions
        else f"after {task.after_sessions} of a user's sessions"
    )
    return f"""\
## What the score is, and what it is not
| | |
|---|---|
| predicts | {label_meaning(task)} |
| from | sessions up to the user's present, {present}; of the last {task.history_weeks:g} weeks |
| a session | ends after {task.gap_minutes:g} minutes without an event |
| night | {task.night_from:g} to {task.night_until:g} h, at UTC {task.utc_offset_hours:+g} h |
| calibrated | no: each organisation does that at home, on its own users |

**It is not a diagnosis.** It says how likely a count of hours or events is, from other counts. It \
knows nothing of why somebody is there, of health, or of harm, and it is wrong about many users.

**How good it is** was not measured in this run: that would need an exact figure of users. Each \
organisation measures it at home, by group, before anything is done with it.

**Who may see a score**: the organisation's own guard, and the user whom it is about. It is never \
sent, and may be used for less alone: fewer recommendations, pauses, quiet hours. It must not be \
used to raise anybody's use, nor for prices, terms, exclusion or a medical claim.
"""
