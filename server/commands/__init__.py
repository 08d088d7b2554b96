"""Commands of sotto-server.

service    init, renew, up, ready, proxy, supervise, audit
partners   invite, accept, revoke, list
runs       bundle, run, status, stop, resume, discard
publish    publish
pretrain   pretrain
options    options that several commands share
"""
