"""The coordinator's runs, from the app bundle to the published model.

run          one run: its folder, record and parameters
bundle       build the app bundle that partners vet
flower       call Flower's command line
supervisor   start runs, and resume those whose process ends
reporter     report how a run goes: status, audit log, log, MLflow
mlflow       send a run's figures to MLflow
follow       describe what has happened in a run, for the terminal
publish      publish a run, finished or given up
discard      delete a run, and keep its record
recommender  build its model from a checkpoint
model_card   write its model card, with the claimed ε
over_use_card  its parts for a model of over-use: what the score is, and what it is not
transparency  its parts in plain words: what decides an order, how groups are served
"""
