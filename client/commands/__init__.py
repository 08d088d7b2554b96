"""The commands of `sotto-node`, one module a command or group.

init         set up a site
node         check and up
questions    what init asks for, one checked answer at a time
trust        vet an app bundle
adapt        the published model, adapted to this site's own users; adapt_private with noise
bound_friends  a table of friends within the bound that runs of the kind "social" need
evaluate     how good it is on own held-out events; evaluate_plot draws the figures;
             choices_table prints those of --feedback
recommend    items for a history, or for many users into a file; recommend_output prints them
export       the published model's scorer as ONNX
own_source   where these find the partner's own data: in a site, or in a file
serve        recommendations over gRPC and HTTP, and feedback
peers        this site's aggregation key, and those of organisations that it believes independent
budget       what the privacy budget was spent on; verify, restore, write off
budget_plot  the same over time, as a picture
outbox       every answer that left
console      all of this as a local web page
rerank_options  in which order lists are shown, for those that show or measure some
options      options that the commands share
"""
