"""The coordinator as a service: its set-up and its processes.

setup          set up a coordinator's folder, and renew its certificates
certificates   its certificate authority, and what certificates say
up             the processes of `sotto-server up`
proxy          which requests reach Flower's SuperLink
listeners      the proxy's process and its TLS listeners
superexec      Flower's executor of tasks, whose tokens stand in no argument
health         /metrics, /healthz and /readyz at an address of server.toml
prometheus     what they answer, from the state of every run and process
"""
