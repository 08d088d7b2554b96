"""Secure aggregation as pure state machines: the coordinator learns a sum modulo 2^64, no summand.

Bonawitz et al. 2017 (doi:10.1145/3133956.3133982) in the form for an active adversary. No files, no
network, no clock; random bytes come in as an argument. docs/secure-aggregation.md describes it.

| module      | what is inside                                                                   |
|-------------|----------------------------------------------------------------------------------|
| parameters  | how many may collude or drop out, and which thresholds are then safe             |
| roster      | whom a partner itself believes in, and which invitations it accepts              |
| messages    | every message as a frozen record with one encoding as bytes                      |
| encoding    | strict reading of numbers, texts and tables from bytes                           |
| partner     | the state machine of one partner in one round                                    |
| coordinator | the state machine of the coordinator in one round                                |
| transcript  | the digests and texts that signatures and keys are bound to                      |
| signing     | ECDSA over P-384 with the partners' long-term keys                               |
| agreement   | X25519, HKDF and the authenticated cipher that shares travel in                  |
| masks       | a key expanded to numbers modulo 2^64                                            |
| shamir      | a secret in shares, of which a threshold recovers it                             |
"""
