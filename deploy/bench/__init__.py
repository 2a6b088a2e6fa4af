"""`make bench`: the cost of a prediction by engine, workers and connections, compared with GET /health as the floor.

The flow is ``environment -> Plan -> Subject -> Rig -> Row -> Report``: the plan says what to measure, the subject is
the model, a rig is one replica with its Nginx, a row has the figures of one run of `wrk`, and the report is printed
and saved. Everything runs on free ports of 127.0.0.1 and stops with the command.
"""
