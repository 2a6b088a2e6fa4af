"""`make bench`: what a prediction costs, by engine, workers and connections, beside the same answer without a model.

``environment -> Plan -> Subject -> Rig -> Row -> Report``: what to measure, the model, one replica with its Nginx, one
run of `wrk`, and what is printed and kept. Everything runs on free ports of 127.0.0.1 and stops with the command.
"""
