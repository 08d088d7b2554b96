"""A day of a partner that serves the model: clicks, adaptations, one federated refresh, kills.

    python -m simulations.benchmarks.day [--data FOLDER] [--users 1000] [--visits 10] [--kills 10]
        [--epsilon 4] [--out FOLDER] [--set SECTION.KEY=VALUE ...]

Three young organisations, whose data have the first `--first` events of their users, train a model
together. The first one serves it with `sotto-node serve`, in a process of its own, with
`serve.federate` on. Its users' later events are the truth that `clicks` draws their clicks from.

| phase | what is new before it                                                          |
|-------|--------------------------------------------------------------------------------|
| 0     | the published model alone                                                      |
| 1, 2  | `sotto-node adapt`, with the feedback so far                                   |
| 3     | a second federated run of the same sites and ledgers, which reads the feedback |
| 4     | `sotto-node adapt` again                                                       |

In each phase another fifth of the users comes, each `--visits` times: what is clicked is not
recommended again, so that users who came in all phases would have ever less that is easy to find.
Two comparisons are of the same users. Each phase's clicks are compared with those that its users
would have made on the lists of the first model, with the same random numbers (`rise`, of all phases
after the first). And the CTR that the click model expects of each phase's model is computed for the
last fifth, of whose clicks no model has seen any. At random requests the service is killed
(SIGKILL) and started again; clients send again until they are answered.

- `clicks`: the click model.
- `traffic`: users who come, and send feedback until it is acknowledged.
- `service`: the process that is killed and started again.
- `partners`: the organisations on disk, their runs, and what their ledgers say.
- `day`: the phases, and what is checked at the end.
- `__main__`: the command.
"""
