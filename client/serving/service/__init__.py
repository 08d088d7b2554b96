"""The service: one implementation of each operation, and two transports.

- `recommender.proto`: the interface. `generate`: makes `recommender_pb2` and `recommender_pb2_grpc`
  from it.
- `operations`: recommend, similar and feedback, apart from how they are asked for.
- `status`: how a request can end, as a gRPC status and an HTTP status.
- `admission`: the bounded queue before the threads that compute.
- `current`: the model, catalogue and histories in use, and their replacement while serving.
- `guarding`: the wellbeing guard between ranking and answer, with the users' sessions.
- `writer`: feedback of many requests in one transaction.
- `clients`: who may ask: bearer tokens; certificates.
- `grpc_transport`: gRPC with health and reflection. `http_transport`: JSON over HTTP.
  `http_server`: what both it and the console listen with. `openapi`: its description and page.
- `metrics`: for Prometheus.
- `serve`: starts and stops all of it.
"""
