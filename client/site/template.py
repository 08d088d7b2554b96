"""The site.toml that `sotto-node init` writes: every key there is, each with its meaning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tomlkit

from shared.data.ids import MISSING
from shared.sections import Value

__all__ = ["KEYS", "Key", "site_toml"]

_HEADING = "This partner's own file: nothing that a coordinator sends changes what it says."


@dataclass(frozen=True, slots=True)
class Key:
    """One key of site.toml.

    Attributes:
        name: `section.key`.
        meaning: a line.
        default: what holds where it is left out; None where it must be stated, or where there is
            no value that says the same.
        example: shown in place of a default.
    """

    name: str
    meaning: str
    default: Value | Sequence[str] | None = None
    example: Value | Sequence[str] | Mapping[str, str] | None = None

    @property
    def section(self) -> str:
        """The table that it stands in; "" for none."""
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        """Its name within the table."""
        return self.name.rpartition(".")[2]


KEYS = (
    Key("organisation", "the name you go by; public"),
    Key("user_base", "whose budget is spent; the same name for ever, whatever the data file"),
    Key("population", "how many users you declare; public, so it may be rounded"),
    Key("catalogue", "folder of the public item list that the coordinator gave you"),
    Key("device", "auto, cpu, cuda or cuda:N", "auto"),
    Key("ledger", "the privacy ledger's file, on a local disk", "ledger.sqlite"),
    Key("anchor", "knows how far the ledger had come; best on another disk", "", "/mnt/b/anchor"),
    Key("data.source", "file, pattern or URL of the interactions: see docs/data.md"),
    Key("data.query", "of a database: the SELECT that gives the rows", "", "SELECT ..."),
    Key("data.table", "of a database, in place of query: name or schema.name", "", "purchases"),
    Key("data.user", "column of the user's id", "user_id"),
    Key("data.item", "column of the item's id", "item_id"),
    Key("data.time", 'column of the time; "" takes timestamp or position', ""),
    Key(
        "data.missing",
        "spellings of a missing id, which is refused; commas between",
        ",".join(MISSING),
    ),
    Key(
        "data.credentials",
        "file with the source's secrets, mode 600; none stand here",
        "",
        "db.toml",
    ),
    Key(
        "data.endpoint", "of an object store other than Amazon's", "", "https://minio.example:9000"
    ),
    Key(
        "data.domains",
        "the domains of the catalogue that your items are of; public; none: the whole catalogue",
        "",
        "films",
    ),
    Key("data.users", 'file of the users\' public groups; "" has none', "", "users.parquet"),
    Key("data.queries", 'file of what users asked for in words; "" has none', "", "queries.csv"),
    Key("data.query_column", "its column of texts; ids and times are called as above", "query"),
    Key(
        "data.query_attributes",
        'its columns of what users have declared, which a query is read with; none: ""',
        "",
        "age_group",
    ),
    Key(
        "data.friends", 'file of who is whose friend, read at home; "" has none', "", "friends.csv"
    ),
    Key(
        "data.bounded_friends",
        "such a file for runs of the kind social, in which nobody is the friend of more",
        "",
        "friends-4.csv",
    ),
    Key("data.friends_most", "than so many others; public, and no result of the data", 0, 4),
    Key(
        "data.max_per_minute",
        "most events of a user in a minute, later ones are dropped; 0: no limit",
        500,
    ),
    Key("data.max_per_day", "most events of a user in 24 hours, likewise; 0: no limit", 2000),
    Key("data.repeat_seconds", "within which a user's same item counts once; 0: always", 3600),
    Key("data.max_user_item", "how often a user counts for an item at home; 0: no limit", 1),
    Key(
        "data.max_user_transition",
        "how often a user counts for one item after another at home; 0: no limit",
        1,
    ),
    Key("policy.max_epsilon", "ε that your users may spend in all, over all runs, for ever"),
    Key("policy.delta", "the δ of that ε: far below 1 / population"),
    Key(
        "policy.max_epsilon_if_all_collude",
        "ε in all, were all others of a secure aggregation to collude",
        None,
        50.0,
    ),
    Key(
        "policy.answers",
        'what is answered; add "evaluate" for noised metrics',
        ("describe", "statistics", "train"),
    ),
    Key(
        "policy.kinds",
        "kinds of model that are trained and measured",
        ("attention", "lstm", "modalities", "text"),
    ),
    Key("policy.min_noise_multiplier", "least noise over clip norm of any request", None, 0.3),
    Key("policy.max_sample_rate", "largest chance of a user to be in a noised sum", 1.0),
    Key("policy.max_clip_norm", "largest bound on one user's part of a sum", 100.0),
    Key("policy.max_steps", "most noised sums in one request", 1000),
    Key("policy.max_noise_multiplier", "largest noise over clip norm of any request", 10000.0),
    Key("policy.max_length", "most events of a history that a model may read", 1000),
    Key("policy.max_layers", "most attention blocks of a model", 12),
    Key("policy.max_heads", "most attention heads of a model", 64),
    Key("policy.max_width", "largest hidden size and feature size of a model", 4096),
    Key("policy.max_own_items", "most items with a direction of their own", 2000),
    Key("policy.max_candidates", "most items drawn for a user in a step", 20000),
    Key("policy.max_weight", "largest absolute value of a global weight", 10000.0),
    Key("policy.max_events", "last events of a history that are read, whatever is asked", 10000),
    Key("policy.max_memory_gb", "most memory that an answer may take beside the data", 8.0),
    Key("policy.max_answer_mb", "largest answer", 256.0),
    Key("policy.max_stored_mb", "room for the bodies of answers that are kept", 1000.0),
    Key("policy.max_answers", "most requests that are ever charged", 100000),
    Key(
        "policy.group_columns",
        "columns of data.users by which noised metrics of groups may leave, and groups be weighed",
        (),
        ("gender", "age"),
    ),
    Key("policy.answer_seconds", "when a reply leaves after its request; 0: when ready", 0.0),
    Key(
        "roster.peers",
        "aggregation keys of organisations that you know to be independent; you count by yourself."
        " `sotto-node peers add` writes them",
        None,
        {"Beta Books": "AhYCZ..."},
    ),
    Key("roster.organisations", "follows from the peers; in the lab it stands alone", None, 8),
    Key(
        "roster.colluding",
        "how many of them may collude with the coordinator all the same; default: a third, at "
        "least 1",
        None,
        2,
    ),
    Key("roster.fewest", "how many of them, with you, must be in every sum; default: all", None, 8),
    Key("coordinator.superlink", "the coordinator's address, host:port", "", "sotto.example:9092"),
    Key(
        "coordinator.root_certificates",
        'who signed its certificate; "" trusts the system',
        "",
        "ca.crt",
    ),
    Key(
        "coordinator.key", "this node's private key; the public one is beside it, .pub", "node_key"
    ),
    Key("coordinator.flower", "folder for Flower's own files: the app that you vetted", "flower"),
    Key("coordinator.local_port", "where the node's own processes meet, on 127.0.0.1", 9094),
    Key("node.executor_user", "user who runs the app, apart from the key", "", "sotto-app"),
    Key("node.metrics", 'address of metrics and probes; "" has none', "", "127.0.0.1:9464"),
    Key("serve.model", "published folder that `sotto-node serve` serves", "", "published"),
    Key("serve.home", 'adapted model; "" takes home.safetensors where it is there', "", "home.st"),
    Key("serve.grpc", 'address of gRPC; "" has none', "127.0.0.1:9470"),
    Key("serve.http", 'address of JSON over HTTP; "" has none', "127.0.0.1:9471"),
    Key("serve.metrics", 'address of metrics of serving; "" has none', "", "127.0.0.1:9472"),
    Key("serve.certificate", 'PEM chain of the service; "" serves without TLS', "", "serve.crt"),
    Key("serve.key", "its private key", "", "serve.key"),
    Key(
        "serve.client_authority",
        'authority of clients\' certificates; "" asks for none',
        "",
        "ca.crt",
    ),
    Key(
        "serve.clients", "clients with a token: `sotto-node serve --add-client`", "", "clients.toml"
    ),
    Key("serve.feedback", "store of feedback: SQLite or PostgreSQL", "sqlite:///feedback.sqlite"),
    Key("serve.feedback_credentials", "file with its user and password, mode 600", "", "db.toml"),
    Key("serve.interactions", "feedback that counts: some of chosen, clicked, rated", "chosen"),
    Key("serve.federate", "whether it also counts in what a coordinator asks for", False),
    Key("serve.times", "form of the times in your data, as seconds or iso; needed for that", ""),
    Key("serve.max_events", "last events of a user that are kept in memory", 1000),
    Key("serve.workers", "requests that are computed at once; 0: one a core", 0),
    Key(
        "serve.index_above",
        "items above which an approximate index is searched; 0: never",
        1_000_000,
    ),
    Key("serve.queue", "requests that wait; one more is refused", 256),
    Key("serve.timeout_seconds", "after which a request is given up", 5.0),
    Key("serve.grace_seconds", "for requests in progress after a signal to stop", 10.0),
    Key("serve.reload_seconds", "between two looks at the files of model and data", 5.0),
    Key("serve.data_seconds", "between two readings of a database", 3600.0),
    Key("rerank.method", "order of lists: none, calibrated, diverse or exposure", "none"),
    Key("rerank.strength", "from 0 to 1, or none for the method's own", "none"),
    Key(
        "rerank.by",
        "genres; with calibrated also popularity, with diverse also features",
        "genres",
    ),
    Key("rerank.rare_places", "with calibrated or diverse: share of places for rare items", 0.0),
    Key("rerank.rare", "popularity deciles, from the last, that are rare", 5),
    Key("rerank.candidates", "items that a list is chosen from", 200),
    Key("home.private", "whether what one user is shown hides your other users", False),
    Key(
        "home.epsilon", "ε of one private home model: each `sotto-node adapt` spends it", None, 4.0
    ),
    Key(
        "home.max_epsilon",
        "ε of all private home models together, for ever; apart from policy.max_epsilon",
        None,
        16.0,
    ),
    Key("wellbeing.who", "whom the guard may protect: nobody, opted-in or all", "nobody"),
    Key("wellbeing.model", "folder of the model of over-use", "", "over-use"),
    Key(
        "wellbeing.users",
        "table of users with wellbeing (true: opted in, false: out), perhaps time_zone",
        "",
        "wellbeing.csv",
    ),
    Key("wellbeing.items", "table of items with finite (true or false)", "", "finite.csv"),
    Key("wellbeing.threshold", "risk from which the measures hold", 0.5),
    Key("wellbeing.session_gap_minutes", "a session ends after so long without use", 30.0),
    Key("wellbeing.cap", "most items recommended in a session; 0: no cap", 0),
    Key("wellbeing.cap_threshold", "risk from which it holds; none: threshold", "none"),
    Key("wellbeing.damping", "how much lower engaging items score; 0: not", 0.0),
    Key("wellbeing.damping_threshold", "risk from which it holds; none: threshold", "none"),
    Key("wellbeing.pause_after_minutes", "of use in a row, before a pause; 0: no pause", 0.0),
    Key("wellbeing.pause_minutes", "how long a pause is", 5.0),
    Key("wellbeing.pause_threshold", "risk from which it holds; none: threshold", "none"),
    Key("wellbeing.quiet_hours", 'nothing then, as 23:00-07:00; "" has none', ""),
    Key("wellbeing.time_zone", "of the quiet hours", "UTC"),
    Key("wellbeing.quiet_threshold", "risk from which it holds; none: threshold", "none"),
    Key("wellbeing.finite_worth", "times its score a finite item counts for; 1: off", 1.0),
    Key("wellbeing.finite_threshold", "risk from which it holds; none: threshold", "none"),
    Key("wellbeing.candidates", "items that a list is chosen from", 200),
)
"""All but `lab`, which is for simulated sites."""


def site_toml(values: Mapping[str, Value]) -> str:
    """Return a site.toml that states `values`; every other key stands there as a comment.

    Args:
        values: by `section.key`, as in `KEYS`.

    Raises:
        KeyError: a value has no such key.
    """
    if odd := set(values) - {key.name for key in KEYS}:
        raise KeyError(*odd)
    document = tomlkit.document()
    document.add(tomlkit.comment(_HEADING))
    document.add(tomlkit.nl())
    for section, keys in itertools.groupby(KEYS, lambda key: key.section):
        table = tomlkit.table() if section else document
        for key in keys:
            table.add(tomlkit.comment(f"{key.last}: {key.meaning}."))
            if key.name in values:
                table.add(key.last, values[key.name])
            else:
                table.add(tomlkit.comment(f"{key.last} = {_example(key)}"))
        if section:
            document.add(tomlkit.nl())
            document.add(section, table)
    return tomlkit.dumps(document)


def _example(key: Key) -> str:
    """Return the value that a comment shows, as TOML has it."""
    shown = key.default if key.example is None else key.example
    if shown is None:
        return "..."
    if isinstance(shown, Mapping):
        table = tomlkit.inline_table()
        table.update(shown)
        return table.as_string()
    return tomlkit.item(shown if isinstance(shown, str | int | float) else list(shown)).as_string()
